"""MMBench and MMBench-CN: every rotation of a question's options must be answered rightly."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lensmith import Benchmark, DataError, LensmithError
from lensmith.data.inline_images import from_base64
from lensmith.evaluation.files import Reader, find, find_all, named
from lensmith.evaluation.matching import by_question
from lensmith.evaluation.statistics import mean
from lensmith.interfaces.benchmark import Item, Judge, JudgeRequest, Prediction, Predictions, SampleScore, Scores
from lensmith_plugins.benchmarks import options
from lensmith_plugins.benchmarks.judge_texts import OPTION_JUDGE, OPTION_JUDGE_CN
from lensmith_plugins.benchmarks.specs import MmBenchSpec
from lensmith_plugins.benchmarks.tables import read_table, write_workbook
from lensmith_plugins.benchmarks.texts import LETTER, LETTER_CN, ask

_STEP = 1_000_000
"""Copies of a question with its options rotated have its index plus multiples of this."""
_FILES = ("mmbench_dev_2*.tsv", "mmbench_dev_en*.tsv", "mmbench_test_en*.tsv", "*.tsv")
_FILES_CN = ("mmbench_dev_cn*.tsv", "mmbench_test_cn*.tsv", "*cn*.tsv", "*.tsv")
_DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
_UPLOAD_COLUMN = 6
_LETTERS = "ABCD"
_ABSENT = {"", "nan", "none"}
_ABILITIES = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
_ATTEMPTS = 3
_CHINESE = re.compile("[\u4e00-\u9fff]")


class MmBench(Benchmark):
    """MMBench (Liu et al. 2023, arXiv 2307.06281) with CircularEval."""

    spec: MmBenchSpec
    max_new_tokens = 1024
    suffix = LETTER
    files = _FILES

    @property
    def judged(self) -> bool:  # type: ignore[override]
        """Whether replies without a letter go to a judge."""
        return self.spec.letters == "judge"

    def read(self, files: Sequence[Path]) -> Predictions:
        """LLaVA's answer lines, or the upload as xlsx, whose column `prediction` holds the replies."""
        if len(files) == 1 and files[0].suffix.lower() in (".xlsx", ".tsv", ".csv"):
            table = read_table(files[0])
            if absent := [column for column in ("index", "prediction") if column not in table]:
                raise DataError(f"{files[0]}:1: no column {' and no '.join(absent)}, which an upload of MMBench has")
            records = _numbered(files[0], table.to_dict("records"))
            rows = [Prediction(r["index"], _text(r["prediction"]), place=place, data=r) for place, r in records.items()]
            return Predictions(rows, "upload")
        return Reader(described="an upload with the columns index and prediction (xlsx)")(files)

    def items(self, data: Path, images: Path) -> list[Item]:
        """Every row of the official table, rotations included, in its order."""
        items = []
        for place, row in _rows(data, self.files).items():
            choices = _choices_of_llava(row)
            hint = "" if _absent(row.get("hint")) else f"{_text(row['hint'])}\n"
            question = hint + "\n".join([_text(row["question"]), *(f"{k}. {v}" for k, v in choices.items())])
            try:
                picture = from_base64(_text(row["image"]))
            except (ValueError, KeyError) as error:
                raise DataError(f"{place}: the column `image` holds no base64 picture ({error})") from error
            extra = {"round_id": 0, "prompt": question, "options": list(choices.values()), "option_char": list(choices)}
            items.append(
                Item(
                    int(row["index"]),
                    ask(question, self.suffix),
                    (picture,),
                    _text(row.get("answer", "")),
                    _text(row.get("category", "")),
                    extra=extra,
                )
            )
        return items

    def score(self, predictions: Predictions, data: Path, judge: Judge | None = None) -> Scores:
        """Percent of the questions all of whose rotations are right, by split, ability and category.

        Of a `partial` run only questions count all of whose rotations were asked.

        Raises:
            DataError: rows without an answer, or a partial run in which no question was asked in all its rotations.
        """
        notes: list[str] = []
        replies, rows = self._replies_and_rows(predictions, data, notes)
        letters = self._letters(replies, rows, judge, notes)
        groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            groups[int(row["index"]) % _STEP].append(row)
        bases = {int(row["index"]) for row in rows if int(row["index"]) < _STEP}
        if strays := [index for index in groups if index not in bases]:
            notes.append(f"{len(strays)} questions without their first rotation, left out: {named(strays)}")
        hits: dict[int, float] = {}
        samples = []
        for index, members in groups.items():
            if index not in bases:
                continue
            members.sort(key=lambda row: row["index"])
            hits[index] = float(all(letters[int(m["index"])] == _text(m["answer"]) for m in members))
            for member in members:
                identity = int(member["index"])
                samples.append(
                    SampleScore(
                        identity,
                        float(letters[identity] == _text(member["answer"])),
                        replies.get(identity, ""),
                        letters[identity] or "none",
                        _text(member["answer"]),
                        _text(member["question"]),
                        _text(member.get("category", "")),
                    )
                )
        first = {int(row["index"]): row for row in rows if int(row["index"]) in hits}
        single = [s.score or 0.0 for s in samples if int(s.question_id) < _STEP]
        metrics: dict[str, Any] = {
            "circular": _percent(list(hits.values())),
            "one_round": _percent(single),
            "groups": len(hits),
            "rows": len(samples),
        }
        metrics |= _breakdown(hits, first)
        quantities = [mean("circular", list(hits.values()))]
        return Scores("circular", metrics, samples, quantities, notes)

    def _replies_and_rows(
        self, predictions: Predictions, data: Path, notes: list[str]
    ) -> tuple[dict[int, str], list[dict[str, Any]]]:
        found = predictions.rows
        if predictions.form == "upload":
            found = [row for row in found if row.text]  # an empty cell is no reply
        if predictions.form == "upload" and not find_all(data, *self.files):
            placed = {row.place: dict(row.data) for row in predictions.rows}
            notes.append("no table of the questions beside the upload: no scores by ability")
        else:
            placed = _rows(data, self.files)
        rows = list(placed.values())
        if any(_absent(row.get("answer")) for row in rows):
            raise DataError(
                f"{data}: rows without an answer, as of the test split, which only MMBench's server scores; write the"
                " upload with `lensmith eval` and hand it in"
            )
        _check_answers(placed)
        given = by_question(found, [int(row["index"]) for row in rows], notes, what="replies")
        if predictions.partial:
            rows = _whole_groups(rows, given, notes)
        _tell_rotations(rows, notes)
        ids = {int(row["index"]) for row in rows}
        if missing := sorted(ids - set(given)):
            notes.append(f"{len(missing)} rows without a reply, wrong: {named(missing)}")
        return {int(index): row.text for index, row in given.items() if index in ids}, rows

    def _letters(
        self, replies: Mapping[int, str], rows: Sequence[Mapping[str, Any]], judge: Judge | None, notes: list[str]
    ) -> dict[int, str]:
        """The letter of every row; empty where there is none."""
        # A row without a reply is the text `nan` to the original, which reads a table with pandas.
        letters = {
            int(row["index"]): options.letter_of(
                replies.get(int(row["index"]), "nan"), choices_of(row), self.spec.matching
            )
            for row in rows
        }
        open_rows = self._open(rows, letters)
        if self.spec.letters == "rules":
            # What is missing is told already.
            if none := [index for index, letter in letters.items() if not letter and index in replies]:
                shown = f"{named(none)}, e.g. {' '.join(replies[none[0]].split())!r:.40}"
                notes.append(
                    f"{len(none)} replies without a letter by the rules, wrong (`letters=judge` asks): {shown}"
                )
            return letters
        if judge is None:
            raise LensmithError("letters=judge needs a judge: say where it is with --judge-url")
        for attempt in range(_ATTEMPTS):
            waiting = [row for row in open_rows if not letters[int(row["index"])]]
            asked = [self._request(row, replies.get(int(row["index"]), "nan"), attempt) for row in waiting]
            for row, told in zip(waiting, judge(asked) if asked else (), strict=True):
                letters[int(row["index"])] = options.letter_of(told, choices_of(row), self.spec.matching)
        unread = [int(row["index"]) for row in open_rows if not letters[int(row["index"])]]
        if unread:
            notes.append(
                f"{len(unread)} replies of which the judge named no letter in {_ATTEMPTS} attempts, wrong (the original"
                f" draws a random option): {named(unread)}"
            )
        return letters

    @staticmethod
    def _open(rows: Sequence[Mapping[str, Any]], letters: Mapping[int, str]) -> list[Mapping[str, Any]]:
        """Rows without a letter whose question is not lost already by another rotation."""
        lost = {
            int(row["index"]) % _STEP
            for row in rows
            if letters[int(row["index"])] not in ("", _text(row.get("answer", "")))
        }
        return [row for row in rows if not letters[int(row["index"])] and int(row["index"]) % _STEP not in lost]

    def requests(self, predictions: Predictions, data: Path) -> list[JudgeRequest]:
        """One for every reply without a letter."""
        if not self.judged:
            return []
        replies, rows = self._replies_and_rows(predictions, data, [])
        letters = {
            int(r["index"]): options.letter_of(replies.get(int(r["index"]), "nan"), choices_of(r), self.spec.matching)
            for r in rows
        }
        return [self._request(row, replies.get(int(row["index"]), "nan"), 0) for row in self._open(rows, letters)]

    def _request(self, row: Mapping[str, Any], reply: str, attempt: int) -> JudgeRequest:
        listed = "".join(f"{letter}. {text}\n" for letter, text in choices_of(row).items())
        question = _text(row["question"])
        template = OPTION_JUDGE_CN if _CHINESE.search(question) else OPTION_JUDGE
        content = template.format(question=question, options=f"There are several options: \n{listed}", reply=reply)
        return JudgeRequest(
            f"{int(row['index'])}/{attempt}",
            self.spec.judge,
            ({"role": "user", "content": content},),
            self.spec.temperature,
            1024,
        )

    def submission(self, predictions: Predictions, data: Path, folder: Path) -> list[Path]:
        """The server's xlsx: the table without pictures, with the column `prediction`."""
        path = find(data, "the table of MMBench", *self.files)
        table = read_table(path)
        if absent := [column for column in _DROPPED if column not in table]:
            raise DataError(f"{path}:1: no column {', '.join(absent)}, which MMBench's tables have")
        indices = [record["index"] for record in _numbered(path, table.to_dict("records")).values()]
        replies = {index: row.text for index, row in by_question(predictions.rows, indices, []).items()}
        table = table.drop(columns=list(_DROPPED))
        table.insert(_UPLOAD_COLUMN, "prediction", [replies.get(index) for index in indices])
        target = folder / "mmbench_upload.xlsx"
        write_workbook(table, target)
        return [target]


class MmBenchCn(MmBench):
    """MMBench in Chinese, with LLaVA's sentence in Chinese."""

    suffix = LETTER_CN
    files = _FILES_CN


def choices_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Options by letter, empty cells left out."""
    return {letter: str(row[letter]) for letter in "ABCDE" if letter in row and not _missing(row[letter])}


def _choices_of_llava(row: Mapping[str, Any]) -> dict[str, str]:
    """Options as LLaVA's script lists them: up to the first that is absent, or spelt `None` or `nan`."""
    found = {}
    for letter in _LETTERS:
        if letter not in row or _absent(row[letter]):
            break
        found[letter] = str(row[letter])
    return found


def _rows(data: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of the official table by file and line."""
    path = find(data, "the table of MMBench", *names)
    table = read_table(path)
    if absent := [column for column in ("index", "question", "A", "B") if column not in table]:
        raise DataError(f"{path}:1: no column {', '.join(absent)}; MMBench's tables have index, question, A, B, …")
    return _numbered(path, table.to_dict("records"))


def _numbered(path: Path, records: Sequence[Mapping[Any, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by file and line, their `index` as a whole number."""
    rows: dict[str, dict[str, Any]] = {}
    seen: dict[int, str] = {}
    for number, record in enumerate(records, 2):
        place = f"{path}:{number}"
        try:
            index = int(record["index"])
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{place}: its index is {record['index']!r:.40}, not a whole number") from error
        if index in seen:
            raise DataError(f"{place}: the index {index} comes a second time; it is that of {seen[index]}, too")
        seen[index] = place
        rows[place] = {**record, "index": index}
    return rows


def _check_answers(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises:
    DataError: a right answer that is not the letter of an option, or a row without options.
    """
    for place, row in rows.items():
        letters = [letter for letter in "ABCDE" if letter in row]
        if _text(row["answer"]) not in letters:
            raise DataError(
                f"{place}: its answer is {_text(row['answer'])!r:.40}, which is one of {', '.join(letters)}"
            )
        if not choices_of(row):
            raise DataError(f"{place}: all its options are empty")


def _tell_rotations(rows: Sequence[Mapping[str, Any]], notes: list[str]) -> None:
    """Note questions that are in the table in fewer rotations than they have options."""
    options: dict[int, int] = {}
    sizes: dict[int, int] = defaultdict(int)
    for row in rows:
        base = int(row["index"]) % _STEP
        options[base] = max(options.get(base, 0), len(choices_of(row)))
        sizes[base] += 1
    if few := [base for base, size in sizes.items() if size < options[base]]:
        notes.append(
            f"{len(few)} questions are in the table in fewer rotations than they have options, so that less is asked"
            f" of them: {named(few)}"
        )


def _whole_groups(rows: Sequence[dict[str, Any]], given: Collection[Any], notes: list[str]) -> list[dict[str, Any]]:
    """Rows of the questions that were asked in all their rotations.

    Raises:
        DataError: there are none.
    """
    indices = {int(row["index"]) for row in rows}
    cut = {index % _STEP for index in indices if index not in given or index % _STEP not in indices}
    whole = [row for row in rows if int(row["index"]) % _STEP not in cut]
    if not whole:
        raise DataError(
            "no question was asked in all rotations of its options, and circular accuracy counts only such questions;"
            " ask more of them (--limit)"
        )
    if begun := {index % _STEP for index in indices if index in given} & cut:
        notes.append(f"{len(begun)} questions were asked in some of their rotations only, not counted")
    return whole


def _missing(value: Any) -> bool:
    return value is None or value != value


def _absent(value: Any) -> bool:
    return _missing(value) or str(value).lower() in _ABSENT


def _text(value: Any) -> str:
    return "" if _missing(value) else str(value)


def _percent(values: Sequence[float]) -> float | None:
    return 100 * sum(values) / len(values) if values else None


def _breakdown(hits: Mapping[int, float], rows: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Scores by split, and in each by ability and category."""
    splits: dict[str, list[int]] = defaultdict(list)
    for index, row in rows.items():
        splits[_text(row.get("split", "")) or "all"].append(index)

    def by(column: str, chosen: Sequence[int]) -> dict[str, float | None]:
        found: dict[str, list[float]] = defaultdict(list)
        for index in chosen:
            found[_text(rows[index].get(column, ""))].append(hits[index])
        return {name: _percent(values) for name, values in sorted(found.items()) if name}

    told: dict[str, Any] = {"splits": {}}
    for split, chosen in sorted(splits.items()):
        abilities = by("l2-category", chosen)
        told["splits"][split] = {
            "circular": _percent([hits[index] for index in chosen]),
            "abilities": {_ABILITIES.get(name, name): value for name, value in abilities.items()},
            "categories": by("category", chosen),
        }
    every = list(rows)
    return told | {
        "abilities": {_ABILITIES.get(n, n): v for n, v in by("l2-category", every).items()},
        "categories": by("category", every),
    }
