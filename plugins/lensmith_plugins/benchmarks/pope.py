"""POPE, with its own reading of yes and no, which LLaVA shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensmith import Benchmark, DataError
from lensmith.evaluation.files import (
    Line,
    PictureFolder,
    Reader,
    find,
    find_all,
    keyed,
    named,
    read_json_lines,
    require,
)
from lensmith.evaluation.matching import Reading, by_question, refuse_full_marks, tell_empty, tell_readings
from lensmith.interfaces.benchmark import Item, Prediction, Predictions, Quantity, SampleScore, Scores
from lensmith_plugins.benchmarks import lenient
from lensmith_plugins.benchmarks.llava_questions import question_lines
from lensmith_plugins.benchmarks.specs import PopeSpec
from lensmith_plugins.benchmarks.texts import SHORT, ask, without

_PREFIX = "coco_pope_"
_LABELS = (f"{_PREFIX}*.json", "*_pope_*.json")
_QUESTIONS = ("llava_pope_test.jsonl", "llava_question_file.jsonl", "*question*.jsonl")
_ID_STEP = 10_000_000
"""LLaVA numbers the questions of the n-th category from n times this, plus one."""
_is_official = keyed("question", "answer")
_NO = {"No", "no", "not"}


def yes_or_no(reply: str) -> str:
    """`no` where a word before the first period is exactly `No`, `no` or `not`; else `yes`."""
    pieces = reply.partition(".")[0].replace(",", "").split(" ")
    return "no" if _NO.intersection(pieces) else "yes"


def _official(document: Any, lines: Sequence[Line]) -> list[Prediction] | None:
    """The original's answer file, `{question, answer}` a line, of one category."""
    if not _is_official(lines):
        return None
    rows = []
    for number, line in enumerate(lines, 1):
        value = require(line, {"question": str, "answer": str}, "an answer of POPE")
        rows.append(Prediction(number, value["answer"], value["question"], line.place, value))
    return rows


class Pope(Benchmark):
    """POPE (Li et al. 2023, arXiv 2305.10355): F1 of saying that an object is there, for each category."""

    spec: PopeSpec
    suffix = SHORT
    read = Reader({"official": _official}, described="POPE's own {question, answer} lines of one category")

    def items(self, data: Path, images: Path) -> list[Item]:
        """The questions of all categories, one after the other."""
        pictures = PictureFolder(images)
        items = []
        for place, (category, labels) in enumerate(_labels(data).items()):
            for number, label in enumerate(labels, 1):
                items.append(
                    Item(
                        place * _ID_STEP + number,
                        ask(label["text"], SHORT),
                        (pictures(label["image"]),),
                        label["label"],
                        category,
                        extra={"category": category},
                    )
                )
        return items

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        """Percent. The headline is the mean of the categories' F1; the papers report each."""
        labels = _labels(data)
        notes: list[str] = []
        samples: list[SampleScore] = []
        metrics: dict[str, Any] = {}
        quantities: list[Quantity] = []
        by_category = self._categories(predictions, data, list(labels))
        if not predictions.partial and (absent := [category for category in labels if category not in by_category]):
            notes.append(
                f"no predictions for {', '.join(absent)}, of which there are labels: F1 and accuracy are the means of"
                f" {', '.join(by_category)} alone"
            )
        unanswered: list[str] = []
        for category, rows in by_category.items():
            self._check_numbers(category, rows, labels[category])
            pairs = self._pairs(category, rows, labels[category], notes, partial=predictions.partial)
            unanswered += [f"{category} {n}" for n in range(len(rows) + 1, len(labels[category]) + 1)]
            counts = []
            for row, label in pairs:
                told, truth = self._read(row, label["label"]), label["label"]
                counts.append([float(a) for a in _cells(told, truth)])
                samples.append(
                    SampleScore(
                        row.question_id,
                        float(told == truth),
                        row.text if row.data.get("_answered", True) else "",
                        told if row.data.get("_answered", True) else "none",
                        truth,
                        without(row.prompt, SHORT) or label["text"],
                        category,
                    )
                )
            told_yes = sum(self._read(row, "no") == "yes" for row in rows)
            self._tell_unread(category, rows, notes)
            metrics[category] = _measures(np.sum(counts, axis=0), told_yes, len(rows))
            if not told_yes:
                notes.append(f"{category}: no reply means yes, so that precision and F1 are not defined (given as 0)")
            quantities.append(Quantity(f"{category}.f1", counts, _f1, limits=(0.0, 100.0)))
        several = list(metrics.values())
        width = 4 * len(quantities)
        units, strata = [], []
        for place, quantity in enumerate(quantities):
            for cells in quantity.rows:
                units.append([0.0] * (4 * place) + list(cells) + [0.0] * (width - 4 * place - 4))
                strata.append(place)
        quantities.insert(0, Quantity("f1", units, _mean_f1, strata, (0.0, 100.0)))
        metrics["f1"] = sum(m["f1"] for m in several) / len(several)
        metrics["accuracy"] = sum(m["accuracy"] for m in several) / len(several)
        if not predictions.partial:
            refuse_full_marks(unanswered, metrics["f1"], 100.0, "POPE counts the replies that there are")
        return Scores("f1", metrics, samples, quantities, notes)

    def _read(self, row: Prediction, truth: str) -> str:
        """`yes` or `no`; of a reply that says neither to a lenient reader the one that is wrong."""
        if self.spec.reading == "paper":
            return yes_or_no(row.text)
        return lenient.yes_or_no(row.text) or ("no" if truth == "yes" else "yes")

    def _tell_unread(self, category: str, rows: Sequence[Prediction], notes: list[str]) -> None:
        found: list[str] = []
        readings = [Reading(r.question_id, r.text, yes_or_no(r.text), lenient.yes_or_no(r.text)) for r in rows]
        empty = "wrong" if self.spec.reading == "lenient" else "which is yes by the paper's rule"
        tell_empty(rows, found)
        found = [f"{note}, {empty}" for note in found]
        fate = "yes by the paper's rule"
        tell_readings(readings, found, what="yes or no", fate=fate, lenient=self.spec.reading == "lenient")
        notes += [f"{category}: {note}" for note in found]

    def _pairs(
        self,
        category: str,
        rows: Sequence[Prediction],
        labels: Sequence[Mapping[str, Any]],
        notes: list[str],
        *,
        partial: bool,
    ) -> list[tuple[Prediction, Mapping[str, Any]]]:
        start = _start(rows)
        if self.spec.pairing == "order":
            if len(rows) != len(labels):
                notes.append(
                    f"{category}: {len(rows)} replies for {len(labels)} labels; paired by order as in the original, so"
                    " that those after the gap meet another question's label (`pairing=id` pairs by question)"
                )
            pairs = list(zip(rows, labels, strict=False))
            moved = sum(bool(row.prompt) and without(row.prompt, SHORT) != label["text"] for row, label in pairs)
            if moved:
                notes.append(f"{category}: {moved} replies stand beside the label of a question with other words")
            if twice := [i for i, count in Counter(str(row.question_id) for row in rows).items() if count > 1]:
                notes.append(f"{category}: {len(twice)} questions have several replies, all counted: {named(twice)}")
            answered = {str(row.question_id) for row in rows}
            missing = [i for i in range(start, start + len(labels)) if str(i) not in answered]
            if missing and len(missing) < len(labels) and not partial:
                notes.append(f"{category}: {len(missing)} questions have no reply: {named(missing)}")
            return pairs
        told: list[str] = []
        given = by_question(rows, range(start, start + len(labels)), told)
        notes += [f"{category}: {note}" for note in told if "are empty" not in note]
        found = [(given.get(start + number), label) for number, label in enumerate(labels)]
        if partial:
            return [(row, label) for row, label in found if row is not None]
        if lost := [start + number for number, (row, _) in enumerate(found) if row is None]:
            notes.append(f"{category}: {len(lost)} questions without a reply, wrong: {named(lost)}")
        return [(row or _unanswered(start + number, label), label) for number, (row, label) in enumerate(found)]

    @staticmethod
    def _categories(predictions: Predictions, data: Path, categories: Sequence[str]) -> dict[str, list[Prediction]]:
        """Predictions by category: by LLaVA's question file, by what a line says, or by its number.

        Raises:
            DataError: a prediction of no category; names the line.
        """
        if predictions.form == "official":
            if len(categories) != 1:
                raise DataError(
                    "POPE's own answer lines do not say their category; name its label file as the data, one of "
                    + ", ".join(f"{_PREFIX}{category}.json" for category in categories)
                )
            return {categories[0]: list(predictions.rows)}
        lines = question_lines(data if data.is_dir() else data.parent, *_QUESTIONS)
        for name in _QUESTIONS[:2]:  # in LLaVA's bundle it lies beside the folder of the labels
            if not lines and (data.parent / name).is_file():
                lines = read_json_lines(data.parent / name)
        keys = {"question_id": (int, str)}
        asked = [require(line, keys, "LLaVA's question file") for line in lines]
        known = {str(value["question_id"]): value.get("category") for value in asked}
        first: dict[Any, int] = {}
        for identity, category in known.items():
            if identity.isdecimal() and isinstance(category, str):
                first[category] = min(first.get(category, int(identity)), int(identity))
        found: dict[str, list[Prediction]] = {}
        for row in predictions.rows:
            category = row.data.get("category") or known.get(str(row.question_id))
            if category is None and not known and str(row.question_id).isdecimal():
                place = (int(str(row.question_id)) - 1) // _ID_STEP
                category = categories[place] if 0 <= place < len(categories) else None
            if not isinstance(category, str) or category not in categories:
                raise DataError(
                    f"{row.place}: question {row.question_id} is of no category of which there are labels"
                    f" ({', '.join(categories)}); LLaVA's question file beside the labels says which it is of"
                )
            marked = Prediction(
                row.question_id, row.text, row.prompt, row.place, {**row.data, "_first": first.get(category, 1)}
            )
            found.setdefault(category, []).append(marked)
        return found

    def _check_numbers(self, category: str, rows: Sequence[Prediction], labels: Sequence[Any]) -> None:
        """Refuse replies that were told apart by their numbers and cannot all be of a category.

        Raises:
            DataError: there are more of them than labels, by far.
        """
        if len(rows) >= 2 * len(labels):
            raise DataError(
                f"{len(rows)} replies seem to be of the category {category}, which has {len(labels)} labels; put"
                f" LLaVA's question file ({_QUESTIONS[0]}), which says the category of each, beside the labels"
            )


def _start(rows: Sequence[Prediction]) -> int:
    """The number of a category's first question."""
    first = min((int(str(row.question_id)) for row in rows if str(row.question_id).isdecimal()), default=0)
    return first - (first - 1) % _ID_STEP if first > _ID_STEP else int(rows[0].data.get("_first", 1))


def _unanswered(number: int, label: Mapping[str, Any]) -> Prediction:
    """What stands for a reply that is not there: the wrong one."""
    return Prediction(number, "No" if label["label"] == "yes" else "Yes", data={"_answered": False})


def _labels(data: Path) -> dict[str, list[dict[str, Any]]]:
    """Labels by category, in the order of the categories' names (as LLaVA numbers them)."""
    paths = find_all(data, *_LABELS)
    if not paths:
        find(data, "the labels of POPE", *_LABELS)
    keys = {"text": str, "label": str, "image": str}
    labels = {}
    for path in paths:
        lines = read_json_lines(path)
        found = [require(line, keys, "a label of POPE") for line in lines]
        for line, label in zip(lines, found, strict=True):
            if label["label"] not in ("yes", "no"):
                raise DataError(f"{line.place}: 'label' is {label['label']!r:.40}, which is yes or no in POPE")
        if not lines:
            raise DataError(f"{path} holds no labels")
        labels[path.stem.split("_pope_")[-1]] = found
    return labels


def _cells(told: str, truth: str) -> tuple[bool, bool, bool, bool]:
    """Which of true positive, false positive, true negative, false negative it is."""
    yes, right = told == "yes", told == truth
    return yes and right, yes and not right, not yes and right, not yes and not right


def _f1(tp: Any, fp: Any, tn: Any, fn: Any) -> Any:
    return 100 * 2 * tp / np.maximum(2 * tp + fp + fn, 1)


def _mean_f1(*sums: Any) -> Any:
    """The mean of the categories' F1 from four counts of each."""
    return sum(_f1(*sums[at : at + 4]) for at in range(0, len(sums), 4)) / (len(sums) // 4)


def _measures(counts: Any, told_yes: int, replies: int) -> dict[str, float]:
    tp, fp, tn, fn = (float(count) for count in counts)
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return {
        "f1": 100 * 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "accuracy": 100 * (tp + tn) / max(tp + fp + tn + fn, 1),
        "precision": 100 * precision,
        "recall": 100 * recall,
        "yes_ratio": 100 * told_yes / replies,
        "true_positives": tp,
        "false_positives": fp,
        "true_negatives": tn,
        "false_negatives": fn,
        "replies": replies,
    }
