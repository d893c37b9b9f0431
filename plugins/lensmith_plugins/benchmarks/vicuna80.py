"""Vicuna's 80 questions, judged against reference answers; or, by FastChat, on their own."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensmith import DataError
from lensmith.evaluation.files import Line, Reader, find, find_all, keyed, named, read_json_lines, require
from lensmith.evaluation.statistics import mean
from lensmith.interfaces.benchmark import Item, Judge, Prediction, Predictions, SampleScore, Scores
from lensmith_plugins.benchmarks.judge_texts import RULE_CODING, RULE_DEFAULT, RULE_MATH
from lensmith_plugins.benchmarks.llava_bench import dialogue, matched, strays
from lensmith_plugins.benchmarks.pairwise import Pair, Pairwise, reviews_form
from lensmith_plugins.benchmarks.specs import Vicuna80Spec

_QUESTIONS = ("question.jsonl", "questions.jsonl", "*question*.jsonl")
_REFERENCES = ("answers_reference.jsonl", "*reference*.jsonl", "*gpt4*.jsonl", "*gpt-4*.jsonl", "answer_gpt35.jsonl")
_RULES = {"coding": RULE_CODING, "math": RULE_MATH}
_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
_is_judgment = keyed("question_id", "score", "model")


def rating(reply: str) -> float:
    """The mark in double brackets, else in single ones, of a judge of FastChat; -1 where there is none."""
    for pattern in _RATINGS:
        if match := pattern.search(reply):
            return float(match.group(1))
    return -1.0


def _judgments(document: Any, lines: Sequence[Line]) -> list[Prediction] | None:
    """FastChat's single grades: `{question_id, model, judgment, score, turn}` a line."""
    if not _is_judgment(lines):
        return None
    keys = {"question_id": (int, str), "score": (int, float), "model": str}
    rows = []
    for line in lines:
        value = require(line, keys, "a judgment of FastChat")
        if isinstance(value["score"], int) and abs(value["score"]) > sys.maxsize:
            raise DataError(f"{line.place}: 'score' is a number of {len(str(value['score']))} digits, no mark")
        rows.append(Prediction(value["question_id"], str(value.get("judgment", "")), place=line.place, data=value))
    return rows


class Vicuna80(Pairwise):
    """Vicuna-80 (LMSYS, FastChat; the scaling study, arXiv 2309.09958, Table 5)."""

    spec: Vicuna80Spec
    read = Reader(
        {"reviews": reviews_form, "judgments": _judgments},
        described="reviews {question_id, tuple, …} or FastChat's judgments {question_id, model, score, …} a line",
        runs=frozenset({"reviews"}),
    )

    def items(self, data: Path, images: Path) -> list[Item]:
        """The questions, without pictures and without any format sentence."""
        return [Item(q["question_id"], q["text"], category=q["category"]) for q in _questions(data)]

    def asked_ids(self, data: Path) -> list[Any]:
        """See `Pairwise.asked_ids`."""
        found = find_all(data, *_QUESTIONS)
        return [question["question_id"] for question in _questions(found[0])] if found else []

    def pairs(self, predictions: Predictions, data: Path) -> list[Pair]:
        """See `Pairwise.pairs`."""
        keys = {"question_id": (int, str), "text": str}
        lines = read_json_lines(find(data, "the reference answers", *_REFERENCES))
        references = [require(line, keys, "a reference answer") for line in lines]
        pairs = []
        by_id = self.spec.pairing == "id"
        for question, reference, row in matched(_questions(data), references, predictions, by_id=by_id):
            category = question["category"]
            rule = _RULES.get(category, RULE_DEFAULT)
            content = f"{dialogue(question['text'], reference['text'], row.text)}[System]\n{rule}\n\n"
            pairs.append(
                Pair(
                    question["question_id"],
                    category,
                    question["text"],
                    reference["text"],
                    row.text,
                    content,
                    row.place,
                    strays(question, reference, row),
                )
            )
        return pairs

    def score(self, predictions: Predictions, data: Path, judge: Judge | None = None) -> Scores:
        """Percent of the reference's marks; of FastChat's judgments the mean mark from 1 to 10 of each model."""
        if predictions.form != "judgments":
            return super().score(predictions, data, judge)
        marks: dict[str, list[float]] = {}
        unread = []
        samples = []
        for row in predictions.rows:
            mark = float(row.data["score"])
            lost = mark == -1 or (self.spec.unparsable != "paper" and not math.isfinite(mark))
            if lost:
                unread.append(row.question_id)
            else:
                marks.setdefault(row.data["model"], []).append(mark)
            share = None if lost else mark / 10
            samples.append(SampleScore(row.question_id, share, row.text, f"{mark:g}", category=row.data["model"]))
        if not marks:
            raise DataError(f"none of the {len(predictions.rows)} judgments holds a mark")
        notes = [f"{len(unread)} judgments without a mark, left out: {named(unread)}"] if unread else []
        told = {str(row.question_id) for row in predictions.rows}
        ids = self.asked_ids(data)
        if missing := [identity for identity in ids if str(identity) not in told]:
            notes.append(f"{len(missing)} questions have no judgment and count nowhere: {named(missing)}")
        turns = Counter(
            (row.data["model"], str(row.question_id), str(row.data.get("turn"))) for row in predictions.rows
        )
        if twice := [identity for (_, identity, _), count in turns.items() if count > 1]:
            notes.append(f"{len(twice)} questions have several judgments, all counted: {named(twice)}")
        if beyond := [row.question_id for row in predictions.rows if row.data["score"] < -1 or row.data["score"] > 10]:
            notes.append(f"{len(beyond)} judgments hold marks outside 1 to 10, counted as they are: {named(beyond)}")
        every = [mark for found in marks.values() for mark in found]
        metrics: dict[str, Any] = {"mark": sum(every) / len(every)}
        metrics["models"] = {model: sum(found) / len(found) for model, found in marks.items()}
        return Scores("mark", metrics, samples, [mean("mark", every, 1.0)], notes, full_marks=10.0)


def _questions(data: Path) -> list[dict[str, Any]]:
    path = find(data, "Vicuna's questions", *_QUESTIONS)
    keys = {"question_id": (int, str), "category": str}
    questions = []
    for line in read_json_lines(path):
        value = dict(require(line, keys, "a question"))
        turns = value.get("turns")  # FastChat writes a list of them
        value.setdefault("text", turns[0] if isinstance(turns, list) and turns else None)
        if not isinstance(value["text"], str):
            raise DataError(f"{line.place}: neither `text` nor `turns`, as Vicuna's questions have")
        questions.append(value)
    return questions
