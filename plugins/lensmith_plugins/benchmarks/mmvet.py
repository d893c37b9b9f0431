"""MM-Vet: a judge marks each answer between 0 and 1, asked again until it does."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lensmith import Benchmark, DataError, LensmithError
from lensmith.evaluation.files import Line, PictureFolder, Reader, find, named, read_json, require
from lensmith.evaluation.matching import by_question
from lensmith.interfaces.benchmark import (
    Item,
    Judge,
    JudgeRequest,
    Prediction,
    Predictions,
    Quantity,
    SampleScore,
    Scores,
)
from lensmith_plugins.benchmarks.judge_texts import MM_VET, MM_VET_AGAIN
from lensmith_plugins.benchmarks.specs import MmVetSpec

_FILES = ("mm-vet.json", "mm*vet.json")
_PREFIX = "v1_"
_ATTEMPTS = 6
_HOTTER = 0.5
_MAX_TOKENS = 3


def mark_of(reply: str) -> float | None:
    """The mark in a judge's reply, up to its first blank; None where it is no number from 0 to 1.

    The original lets `nan` pass, which then makes every total one; here it is no mark.
    """
    try:
        mark = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return mark if 0 <= mark <= 1 else None


def _mapping(document: Any, lines: Sequence[Line]) -> list[Prediction] | None:
    """A results file `{v1_0: reply, …}`, or grades `{v1_0: {score: […], content: […]}, …}`."""
    if not isinstance(document, dict) or not document or not all(str(k).startswith(_PREFIX) for k in document):
        return None
    rows = []
    for identity, value in document.items():
        if isinstance(value, str):
            rows.append(Prediction(identity, value, place=f"{lines[0].place}, {identity}"))
        elif isinstance(value, dict) and isinstance(value.get("score"), list) and value["score"]:
            contents = value.get("content") or []
            told = [str(content) for content in contents] if isinstance(contents, list) else [str(contents)]
            rows.append(Prediction(identity, " | ".join(told), place=f"{lines[0].place}, {identity}", data=value))
        else:
            raise DataError(f"{lines[0].place}: {identity} is {value!r:.60}, neither a reply nor grades with `score`")
    return rows


class MmVet(Benchmark):
    """MM-Vet (Yu et al. 2023, arXiv 2308.02490)."""

    spec: MmVetSpec
    judged = True
    max_new_tokens = 1024
    read = Reader(
        {"mapping": _mapping},
        described="results {v1_0: reply, …} or grades {v1_0: {score: […]}, …}",
        runs=frozenset({"mapping"}),
    )

    def items(self, data: Path, images: Path) -> list[Item]:
        """The questions, without any format sentence; their ids are numbers, as in LLaVA's file."""
        pictures = PictureFolder(images)
        return [
            Item(
                int(identity.removeprefix(_PREFIX)),
                entry["question"],
                (pictures(entry["imagename"]),),
                entry["answer"],
                "_".join(sorted(entry["capability"])),
            )
            for identity, entry in _questions(data).items()
        ]

    def _replies(
        self, predictions: Predictions, questions: Mapping[str, Any], notes: list[str]
    ) -> dict[str, Prediction]:
        # LLaVA's lines have the number, MM-Vet's files `v1_` and the number.
        keyed = [row if str(row.question_id).startswith(_PREFIX) else _prefixed(row) for row in predictions.rows]
        found = by_question(keyed, questions, notes)
        if missing := [identity for identity in questions if identity not in found]:
            raise DataError(
                f"{len(missing)} questions have no answer: {named(missing)}; MM-Vet scores whole files only"
            )
        return found

    def requests(self, predictions: Predictions, data: Path) -> list[JudgeRequest]:
        """The first attempt for every question and repeat."""
        if _are_grades(predictions):
            return []
        questions = _questions(data)
        replies = self._replies(predictions, questions, [])
        return [
            self._request(identity, entry, replies[identity].text, run, 0)
            for run in range(self.spec.repeats)
            for identity, entry in questions.items()
        ]

    def _request(self, identity: str, entry: Mapping[str, Any], reply: str, run: int, attempt: int) -> JudgeRequest:
        truth = entry["answer"].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        content = f"{MM_VET}\n" + " | ".join([entry["question"], truth, reply, ""])
        heat = self.spec.temperature + _HOTTER * max(attempt - 1, 0)
        content += MM_VET_AGAIN if attempt else ""
        key = f"{identity}/run {run + 1}/attempt {attempt + 1}"
        return JudgeRequest(key, self.spec.judge, ({"role": "user", "content": content},), heat, _MAX_TOKENS)

    def score(self, predictions: Predictions, data: Path, judge: Judge | None = None) -> Scores:
        """Points from 0 to 100, to one decimal: in total, by capability and by exact combination."""
        questions = _questions(data)
        notes: list[str] = []
        replies = self._replies(predictions, questions, notes)
        marks = self._marks(predictions, questions, replies, judge, notes)
        unread = [f"{i} (run {n})" for i, found in marks.items() for n, mark in enumerate(found, 1) if mark is None]
        if unread:
            what = "scored 0, as in the paper" if self.spec.unparsable == "paper" else "left out"
            notes.append(f"{len(unread)} answers got no mark from the judge, {what}: {named(unread, 20)}")
        metrics: dict[str, Any] = _metrics(questions, marks, paper=self.spec.unparsable == "paper")
        metrics["as_in_the_paper"] = _metrics(questions, marks, paper=True)
        metrics["unparsable_replies"] = len(unread)
        samples, rows = [], []
        for identity, entry in questions.items():
            told = [m for m in marks[identity] if m is not None] or ([0.0] if self.spec.unparsable == "paper" else [])
            score = sum(told) / len(told) if told else None
            if score is not None:
                rows.append((score, 1.0))
            samples.append(
                SampleScore(
                    int(identity.removeprefix(_PREFIX)),
                    score,
                    replies[identity].text,
                    ", ".join("no mark" if mark is None else f"{mark:g}" for mark in marks[identity]),
                    entry["answer"],
                    entry["question"],
                    "_".join(sorted(entry["capability"])),
                )
            )
        quantities = [Quantity("total", rows, lambda total, count: 100 * total / count, limits=(0.0, 100.0))]
        return Scores("total", metrics, samples, quantities, notes)

    def _marks(
        self,
        predictions: Predictions,
        questions: Mapping[str, Any],
        replies: Mapping[str, Prediction],
        judge: Judge | None,
        notes: list[str],
    ) -> dict[str, list[float | None]]:
        if _are_grades(predictions):
            return _graded(predictions, questions, notes)
        if judge is None:
            raise LensmithError("these are answers, not grades: a judge grades them; say where it is (--judge-url)")
        marks: dict[str, list[float | None]] = {i: [None] * self.spec.repeats for i in questions}
        waiting = [(run, identity) for run in range(self.spec.repeats) for identity in questions]
        for attempt in range(_ATTEMPTS):
            asked = [self._request(i, questions[i], replies[i].text, run, attempt) for run, i in waiting]
            told = judge(asked) if asked else []
            if attempt == _ATTEMPTS - 1:
                break  # the original asks a sixth time and does not read the reply
            found = [mark_of(reply) for reply in told]
            for (run, identity), mark in zip(waiting, found, strict=True):
                marks[identity][run] = mark
            waiting = [place for place, mark in zip(waiting, found, strict=True) if mark is None]
        return marks

    def submission(self, predictions: Predictions, data: Path, folder: Path) -> list[Path]:
        """The results file that MM-Vet's evaluator reads."""
        replies = self._replies(predictions, _questions(data), [])
        path = folder / "mmvet_results.json"
        path.write_text(json.dumps({i: row.text for i, row in replies.items()}, indent=2), encoding="utf-8")
        return [path]


def _prefixed(row: Prediction) -> Prediction:
    return replace(row, question_id=f"{_PREFIX}{row.question_id}")


def _are_grades(predictions: Predictions) -> bool:
    """Whether the file holds grades.

    Raises:
        DataError: only some of its entries are.
    """
    rows = [row for run in predictions.runs or (predictions,) for row in run.rows]
    graded = [row for row in rows if "score" in row.data and predictions.form == "mapping"]
    if graded and len(graded) < len(rows):
        row = next(row for row in rows if row not in graded)
        raise DataError(f"{row.place}: a reply among grades; a file holds one or the other")
    return bool(graded)


def _graded(predictions: Predictions, questions: Mapping[str, Any], notes: list[str]) -> dict[str, list[float | None]]:
    """Marks of grade files, a file or an entry of its lists being a run.

    Raises:
        DataError: a question without a grade, or a grade outside 0 to 1.
    """
    marks: dict[str, list[float | None]] = {identity: [] for identity in questions}
    for run in predictions.runs or (predictions,):
        for row in run.rows:
            if row.question_id not in marks:
                continue
            told = row.data.get("content")
            contents = [*(told if isinstance(told, list) else ()), *([None] * len(row.data["score"]))]
            for score, content in zip(row.data["score"], contents, strict=False):
                unread = isinstance(content, str) and mark_of(content) is None
                number = isinstance(score, (int, float)) and not isinstance(score, bool) and math.isfinite(score)
                if number and not 0 <= score <= 1:
                    raise DataError(f"{row.place}: a grade of {score:g}, and MM-Vet's lie between 0 and 1")
                marks[str(row.question_id)].append(None if unread or not number else float(score))
    count = min(map(len, marks.values()))
    if not count:
        lost = [identity for identity, found in marks.items() if not found]
        raise DataError(f"{len(lost)} questions have no grade: {named(lost)}")
    if more := [identity for identity, found in marks.items() if len(found) > count]:
        notes.append(f"{len(more)} questions have more than {count} grades, the others left out: {named(more)}")
    return {identity: found[:count] for identity, found in marks.items()}


def _metrics(
    questions: Mapping[str, Any], marks: Mapping[str, Sequence[float | None]], *, paper: bool
) -> dict[str, Any]:
    """Means over the runs; the deviation is the population's, over the runs' totals."""
    runs = len(next(iter(marks.values())))
    groups: dict[str, dict[str, list[str]]] = {"capabilities": defaultdict(list), "combinations": defaultdict(list)}
    for identity, entry in questions.items():
        for capability in set(entry["capability"]):
            groups["capabilities"][capability].append(identity)
        groups["combinations"]["_".join(sorted(set(entry["capability"])))].append(identity)

    def points(ids: Sequence[str]) -> list[float]:
        told = []
        for run in range(runs):
            found = [marks[i][run] for i in ids]
            kept = [0.0 if mark is None else mark for mark in found if paper or mark is not None]
            if kept:
                told.append(100 * sum(kept) / len(kept))
        return told

    totals = points(list(questions))
    metrics: dict[str, Any] = {
        "total": round(float(np.mean(totals)), 1) if totals else None,
        "deviation": round(float(np.std(totals)), 1) if totals else None,
        "runs": [round(total, 1) for total in totals],
    }
    for kind, members in groups.items():
        found = {name: points(ids) for name, ids in members.items()}
        metrics[kind] = {name: round(float(np.mean(p)), 1) if p else None for name, p in sorted(found.items())}
    return metrics


def _questions(data: Path) -> dict[str, dict[str, Any]]:
    path = find(data, "the questions of MM-Vet", *_FILES)
    document = read_json(path)
    keys = {"question": str, "answer": str, "capability": list, "imagename": str}
    if not isinstance(document, dict) or not document:
        raise DataError(f"{path}: not an object of {{{', '.join(sorted(keys))}}} by id, as mm-vet.json is")
    for identity, value in document.items():
        if not identity.removeprefix(_PREFIX).isdecimal():
            raise DataError(f"{path}: the id {identity!r:.40}, which is {_PREFIX} and a number in mm-vet.json")
        entry = require(Line(value, f"{path}, question {identity}"), keys, "a question of MM-Vet")
        if not entry["capability"] or not all(isinstance(capability, str) for capability in entry["capability"]):
            raise DataError(f"{path}, question {identity}: 'capability' is {entry['capability']!r:.60}, not names")
    return document
