"""MMLU, as its authors' code asks and counts: the likelihood of four letters after solved examples."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith import Benchmark, DataError
from lensmith.evaluation.files import Line, Reader, named
from lensmith.evaluation.matching import Reading, by_question, tell_readings
from lensmith.evaluation.statistics import mean
from lensmith.interfaces.benchmark import Item, Prediction, Predictions, SampleScore, Scores
from lensmith_plugins.benchmarks import lenient
from lensmith_plugins.benchmarks.mmlu_subjects import GROUPS, SUBJECTS
from lensmith_plugins.benchmarks.specs import MmluSpec
from lensmith_plugins.benchmarks.tables import read_table

if TYPE_CHECKING:
    import pandas

_LETTERS = "ABCD"
_UNSEEN = -100.0
"""The original's log-probability of a letter that is not among those that came back."""


def best_letter(logprobs: Mapping[str, float]) -> str:
    """The likeliest letter, of equals the first; letters with or without the space before them."""
    values = [logprobs.get(f" {letter}", logprobs.get(letter, _UNSEEN)) for letter in _LETTERS]
    return _LETTERS[values.index(max(values))]


def _likeliest(logprobs: Mapping[str, Any], place: str) -> str:
    """`best_letter` of what a file holds.

    Raises:
        DataError: the value of a letter is no number.
    """
    for key, value in logprobs.items():
        if key.strip() in tuple(_LETTERS) and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise DataError(f"{place}: the log-probability of {key.strip()} is {value!r:.40}, not a number")
    return best_letter(logprobs)


def _by_subject(document: Any, lines: Sequence[Line]) -> list[Prediction] | None:
    """Letters, log-probabilities by letter, or four of them, listed by subject: `{subject: [… one a question]}`."""
    if not isinstance(document, dict) or not document or not all(isinstance(v, list) for v in document.values()):
        return None
    rows = []
    for subject, answers in document.items():
        for number, answer in enumerate(answers):
            place = f"{lines[0].place}, {subject}, entry {number + 1}"
            if isinstance(answer, str):
                letter = answer
            elif isinstance(answer, dict):
                letter = _likeliest(answer, place)
            elif isinstance(answer, list) and len(answer) == len(_LETTERS):
                letter = _likeliest(dict(zip(_LETTERS, answer, strict=True)), place)
            else:
                raise DataError(f"{place}: {answer!r:.60} is neither a letter nor log-probabilities of A to D")
            rows.append(Prediction(f"{subject}/{number}", letter, place=place))
    return rows


class Mmlu(Benchmark):
    """MMLU (Hendrycks et al. 2021, arXiv 2009.03300): accuracy over all questions of all subjects."""

    spec: MmluSpec
    max_new_tokens = 1

    def read(self, files: Sequence[Path]) -> Predictions:
        """LLaVA's answer lines with ids `subject/number`, answers by subject, or the original's result folder."""
        if files[0].is_dir():
            return Predictions(_result_folder(files[0]), "results")
        return Reader(
            {"by_subject": _by_subject},
            described="{subject: [letter or log-probabilities, …]}, the folder of CSV results that MMLU's code writes",
        )(files)

    def items(self, data: Path, images: Path) -> list[Item]:
        """All questions, subjects in the order of their names; each with fewer examples as fallbacks."""
        items = []
        for subject, test in _tables(data, "test").items():
            examples = _table(_folder(data, "dev") / f"{subject}_dev.csv") if self.spec.shots else test[:0]
            shots = min(self.spec.shots, len(examples))
            heads = [header(subject) + _solved(examples, count) for count in range(shots, -1, -1)]
            for number in range(len(test)):
                question = _formatted(test, number)
                prompts = [head + question for head in heads]
                items.append(
                    Item(
                        f"{subject}/{number}",
                        prompts[0],
                        (),
                        str(test.iloc[number, -1]),
                        subject,
                        tuple(f" {letter}" for letter in _LETTERS),
                        tuple(prompts[1:]),
                    )
                )
        return items

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        """Percent of all questions; by subject, by 17 categories and by 4 groups, each over its questions."""
        notes: list[str] = []
        tables = _tables(data, "test")
        ids = [f"{subject}/{number}" for subject, test in tables.items() for number in range(len(test))]
        given = by_question(predictions.rows, ids, notes)
        lists: dict[str, dict[str, list[float]]] = {
            name: defaultdict(list) for name in ("subjects", "categories", "groups")
        }
        missing = [identity for identity in ids if identity not in given]
        if missing and not predictions.partial:
            raise DataError(f"{len(missing)} questions have no answer: {named(missing)}")
        samples, readings = [], []
        for subject, test in tables.items():
            for number in range(len(test)):
                identity = f"{subject}/{number}"
                row = given.get(identity)
                if row is None:
                    continue
                told = _letter(row, self.spec.reading)
                truth = str(test.iloc[number, -1]).strip()
                if truth not in _LETTERS:
                    raise DataError(f"{subject}_test.csv:{number + 1}: the right letter is {truth!r:.40}, not A to D")
                strict, meant = (_letter(row, reading) for reading in ("paper", "lenient"))
                readings.append(Reading(identity, row.text, strict if strict in _LETTERS else "", meant))
                right = float(told == truth)
                category = SUBJECTS.get(subject, "unknown")
                lists["subjects"][subject].append(right)
                lists["categories"][category].append(right)
                lists["groups"][GROUPS.get(category, "unknown")].append(right)
                question = str(test.iloc[number, 0])
                samples.append(SampleScore(identity, right, row.text, told, truth, question, subject))
        is_lenient = self.spec.reading == "lenient"
        tell_readings(readings, notes, what="a letter", fate="wrong", lenient=is_lenient)
        scores = [sample.score or 0.0 for sample in samples]
        metrics: dict[str, Any] = {"accuracy": _percent(scores), "questions": len(scores)}
        for name, groups in lists.items():
            metrics[name] = {key: _percent(values) for key, values in sorted(groups.items())}
        quantities = [mean("accuracy", scores)]
        quantities += [mean(f"groups.{name}", values) for name, values in lists["groups"].items()]
        return Scores("accuracy", metrics, samples, quantities, notes)

    def submission(self, predictions: Predictions, data: Path, folder: Path) -> list[Path]:
        """Letters by subject."""
        letters: dict[str, list[str]] = defaultdict(list)
        for row in predictions.rows:
            letters[str(row.question_id).rpartition("/")[0]].append(_letter(row, self.spec.reading))
        path = folder / "mmlu_letters.json"
        path.write_text(json.dumps(letters, indent=2), encoding="utf-8")
        return [path]


def header(subject: str) -> str:
    """The first sentence; the original has two spaces before the subject."""
    words = "".join(f" {word}" for word in subject.split("_"))
    return f"The following are multiple choice questions (with answers) about {words}.\n\n"


def _solved(table: pandas.DataFrame, count: int) -> str:
    return "".join(f"{_formatted(table, number)} {table.iloc[number, -1]}\n\n" for number in range(count))


def _formatted(table: pandas.DataFrame, number: int) -> str:
    row = table.iloc[number]
    options = "".join(f"\n{letter}. {row.iloc[place]}" for place, letter in enumerate(_LETTERS, 1))
    return f"{row.iloc[0]}{options}\nAnswer:"


def _letter(row: Prediction, reading: str) -> str:
    logprobs = row.data.get("logprobs")
    if isinstance(logprobs, dict):
        return _likeliest(logprobs, row.place)
    return lenient.letter_of(row.text, dict.fromkeys(_LETTERS, "")) if reading == "lenient" else row.text.strip()


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values) if values else 0.0


def _folder(data: Path, split: str) -> Path:
    for folder in (data / split, data / "data" / split):
        if folder.is_dir():
            return folder
    raise DataError(f"{data}: no folder {split} (or data/{split}) with MMLU's CSV files")


def _tables(data: Path, split: str) -> dict[str, pandas.DataFrame]:
    files = sorted(_folder(data, split).glob(f"*_{split}.csv"))
    if not files:
        raise DataError(f"{_folder(data, split)}: no files SUBJECT_{split}.csv")
    return {path.name.removesuffix(f"_{split}.csv"): _table(path) for path in files}


def _table(path: Path) -> pandas.DataFrame:
    """A subject's table; words like `None` and `NA` are empty cells and print as `nan`."""
    table = read_table(path, header=None)
    if table.shape[1] != len(_LETTERS) + 2:
        raise DataError(f"{path}:1: {table.shape[1]} columns; a row has the question, A to D, and the right letter")
    # Object cells keep every column's own numbers; a row of mixed columns would turn integers into floats.
    return table.astype(object)


def _result_folder(folder: Path) -> list[Prediction]:
    """`results_ENGINE/SUBJECT.csv`: the test table with a probability for each letter."""
    rows = []
    for path in sorted(folder.glob("*.csv")):
        table = read_table(path)
        columns = [next((c for c in table if str(c).endswith(f"_choice{x}_probs")), None) for x in _LETTERS]
        if None in columns:
            raise DataError(f"{path}:1: no columns …_choiceA_probs to …_choiceD_probs, which results of MMLU have")
        for number, record in enumerate(table[columns].to_numpy().tolist()):
            place = f"{path}:{number + 2}"
            letter = best_letter(dict(zip(_LETTERS, [_number(cell, place) for cell in record], strict=True)))
            rows.append(Prediction(f"{path.stem}/{number}", letter, place=place))
    if not rows:
        raise DataError(f"{folder}: no CSV results of MMLU")
    return rows


def _number(cell: Any, place: str) -> float:
    try:
        return float(cell)  # one word in a column makes text of all its numbers
    except ValueError as error:
        raise DataError(f"{place}: the probability of a letter is {cell!r:.40}, not a number") from error
