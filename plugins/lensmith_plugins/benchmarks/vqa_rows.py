"""Any questions with answers: exact match, VQA accuracy and word F1."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lensmith import Benchmark, DataError
from lensmith.evaluation.files import PictureFolder, Reader, find, named, read_records, require
from lensmith.evaluation.matching import by_question, tell_near
from lensmith.evaluation.statistics import mean
from lensmith.interfaces.benchmark import Item, Predictions, SampleScore, Scores
from lensmith_plugins.benchmarks.answers import evalai, soft_accuracy, vqa
from lensmith_plugins.benchmarks.specs import VqaSpec
from lensmith_plugins.benchmarks.texts import ask
from lensmith_plugins.benchmarks.vqav2 import results

_FILES = ("questions.jsonl", "*questions*.jsonl", "*.jsonl", "*.json")
_LEAVE_ONE_OUT = 4
"""From so many answers on, VQA accuracy leaves each annotator out in turn; fewer could never reach 1 that way."""


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


_NORMALISE: dict[str, Callable[[str], str]] = {"vqa": vqa, "evalai": evalai, "none": _plain}


class VqaRows(Benchmark):
    """Rows `{id, image, question, answers}`; `image` may be a list or absent, `answer` may stand for one answer."""

    spec: VqaSpec

    @property
    def suffix(self) -> str:  # type: ignore[override]
        """What the spec says."""
        return self.spec.suffix

    read = Reader({"results": results}, described="a list [{question_id, answer}, …]")

    def items(self, data: Path, images: Path) -> list[Item]:
        """The rows' questions with the format sentence."""
        pictures = PictureFolder(images)
        items = []
        for row in rows_of(data):
            prompt = ask(row["question"], self.spec.suffix)
            files = tuple(pictures(name) for name in row["images"])
            items.append(Item(row["id"], prompt, files, row["answers"][0], row["category"]))
        return items

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        """Percent; a question without an answer is wrong, unless the run was `partial`."""
        notes: list[str] = []
        rows = rows_of(data)
        given = by_question(predictions.rows, [row["id"] for row in rows], notes)
        if predictions.partial:
            rows = [row for row in rows if row["id"] in given]
        if missing := [row["id"] for row in rows if row["id"] not in given]:
            notes.append(f"{len(missing)} questions without an answer, wrong: {named(missing)}")
        normalise = _NORMALISE[self.spec.normalise]
        lists: dict[str, list[float]] = {"vqa_accuracy": [], "exact_match": [], "f1": []}
        categories: dict[str, list[float]] = defaultdict(list)
        samples = []
        for row in rows:
            prediction = given.get(row["id"])
            reply = normalise(prediction.text) if prediction else ""
            answers = [normalise(answer) for answer in row["answers"]]
            exact = float(prediction is not None and reply in answers)
            enough = len(answers) >= _LEAVE_ONE_OUT
            soft = soft_accuracy(reply, answers) if enough and prediction is not None else exact
            lists["exact_match"].append(exact)
            lists["vqa_accuracy"].append(soft)
            lists["f1"].append(max(word_f1(reply, answer) for answer in answers) if prediction else 0.0)
            categories[row["category"]].append(soft)
            text = prediction.text if prediction else ""
            samples.append(
                SampleScore(row["id"], soft, text, reply, row["answers"][0], row["question"], row["category"])
            )
        tell_near(samples, notes)
        metrics: dict[str, Any] = {name: _percent(values) for name, values in lists.items()}
        if any(categories):
            metrics["categories"] = {name: _percent(values) for name, values in sorted(categories.items()) if name}
        return Scores("vqa_accuracy", metrics, samples, [mean(n, v) for n, v in lists.items()], notes)


def word_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall of words (SQuAD, Rajpurkar et al. 2016)."""
    told, truth = prediction.split(), answer.split()
    if not told or not truth:
        return float(told == truth)
    same = sum((Counter(told) & Counter(truth)).values())
    return 2 * same / (len(told) + len(truth))


def rows_of(data: Path) -> list[dict[str, Any]]:
    """Rows with `id`, `images`, `question`, `answers` and `category`.

    Raises:
        DataError: a row without a question or an answer, one whose picture or answers are of another kind, or an id
            that comes twice; by line.
    """
    path = find(data, "the questions", *_FILES)
    rows, seen = [], set()
    for line in read_records(path)[1]:
        value = dict(require(line, {}, "a row"))
        identity = value.get("id", value.get("question_id"))
        question = value.get("question", value.get("text"))
        texts = _texts(value, line.place)
        if isinstance(identity, bool) or not isinstance(identity, (str, int)):
            raise DataError(f"{line.place}: no `id`; a row is {{id, image, question, answers}}")
        if not isinstance(question, str) or not texts or not all(map(_is_text, texts)):
            raise DataError(f"{line.place}: row {identity!r} has no `question`, or no `answers` that are text")
        if str(identity) in seen:
            raise DataError(f"{line.place}: the id {identity!r} comes a second time; a number and its text are one id")
        seen.add(str(identity))
        rows.append(
            {
                "id": identity,
                "images": _images(value.get("image"), line.place),
                "question": question,
                "answers": [str(text) for text in texts],
                "category": str(value.get("category", "")),
            }
        )
    return rows


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _texts(value: Mapping[str, Any], place: str) -> list[Any]:
    """What stands for a row's answers: `answers`, a list or a single one, else `answer`."""
    answers = value.get("answers")
    if answers is None or answers == []:
        return [value["answer"]] if "answer" in value else []
    if _is_text(answers):
        return [answers]
    if not isinstance(answers, list):
        raise DataError(f"{place}: 'answers' is {answers!r:.40}, neither a list of texts nor one")
    return [answer.get("answer") if isinstance(answer, dict) else answer for answer in answers]


def _images(image: Any, place: str) -> list[str]:
    """Names of a row's pictures; `image` is a name, a list of them, or nothing."""
    names = image if isinstance(image, list) else [] if image in (None, "") else [image]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise DataError(f"{place}: 'image' is {wrong[0]!r:.40}, not the name of a picture or a list of names")
    return names


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)
