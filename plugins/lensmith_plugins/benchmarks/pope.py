"""POPE, with its own reading of yes and no, which LLaVA shares."""

from __future__ import annotations

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
    last_of_each,
    read_json_lines,
    require,
)
from lensmith.interfaces.benchmark import Item, Prediction, Predictions, Quantity, SampleScore, Scores
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
        for category, rows in by_category.items():
            self._check_numbers(category, rows, labels[category])
            pairs = self._pairs(category, rows, labels[category], notes)
            counts = []
            for row, label in pairs:
                told, truth = yes_or_no(row.text), label["label"]
                counts.append([float(a) for a in _cells(told, truth)])
                samples.append(
                    SampleScore(
                        row.question_id,
                        float(told == truth),
                        row.text,
                        told,
                        truth,
                        without(row.prompt, SHORT) or label["text"],
                        category,
                    )
                )
            told_yes = sum(yes_or_no(row.text) == "yes" for row in rows)
            metrics[category] = _measures(np.sum(counts, axis=0), told_yes, len(rows))
            if not told_yes:
                notes.append(f"{category}: no reply means yes, so that precision and F1 are not defined (given as 0)")
            quantities.append(Quantity(f"{category}.f1", counts, _f1))
        several = list(metrics.values())
        width = 4 * len(quantities)
        units, strata = [], []
        for place, quantity in enumerate(quantities):
            for cells in quantity.rows:
                units.append([0.0] * (4 * place) + list(cells) + [0.0] * (width - 4 * place - 4))
                strata.append(place)
        quantities.insert(0, Quantity("f1", units, _mean_f1, strata))
        metrics["f1"] = sum(m["f1"] for m in several) / len(several)
        metrics["accuracy"] = sum(m["accuracy"] for m in several) / len(several)
        return Scores("f1", metrics, samples, quantities, notes)

    def _pairs(
        self, category: str, rows: Sequence[Prediction], labels: Sequence[Mapping[str, Any]], notes: list[str]
    ) -> list[tuple[Prediction, Mapping[str, Any]]]:
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
            return pairs
        given = last_of_each(rows, notes)
        ordered = sorted(row.question_id for row in rows) if all(isinstance(r.question_id, int) for r in rows) else []
        first = ordered[0] if ordered else 0
        start = int(first) - (int(first) - 1) % _ID_STEP if int(first) > _ID_STEP else self._first_id(rows)
        found = [(given.get(start + number), label) for number, label in enumerate(labels)]
        lost = sum(row is None for row, _ in found)
        if lost:
            notes.append(f"{category}: {lost} questions without a reply, not counted")
        return [(row, label) for row, label in found if row is not None]

    @staticmethod
    def _first_id(rows: Sequence[Prediction]) -> int:
        return int(rows[0].data.get("_first", 1))

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
        known = {line.value["question_id"]: line.value.get("category") for line in lines}
        first: dict[Any, Any] = {}
        for identity, category in known.items():
            first[category] = min(first.get(category, identity), identity)
        found: dict[str, list[Prediction]] = {}
        for row in predictions.rows:
            category = row.data.get("category") or known.get(row.question_id)
            if category is None and not known and isinstance(row.question_id, int):
                place = (row.question_id - 1) // _ID_STEP
                category = categories[place] if 0 <= place < len(categories) else None
            if category not in categories:
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


def _labels(data: Path) -> dict[str, list[dict[str, Any]]]:
    """Labels by category, in the order of the categories' names (as LLaVA numbers them)."""
    paths = find_all(data, *_LABELS)
    if not paths:
        find(data, "the labels of POPE", *_LABELS)
    keys = {"text": str, "label": str, "image": str}
    labels = {}
    for path in paths:
        lines = read_json_lines(path)
        labels[path.stem.split("_pope_")[-1]] = [require(line, keys, "a label of POPE") for line in lines]
        if not lines:
            raise DataError(f"{path} holds no labels")
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
