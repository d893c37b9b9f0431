"""A judge compares each answer with a reference answer: what LLaVA-Bench and Vicuna's 80 questions share."""

from __future__ import annotations

import abc
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensmith import Benchmark, DataError, LensmithError
from lensmith.evaluation.files import Line, Reader, keyed, named, require
from lensmith.evaluation.matching import tell_empty
from lensmith.interfaces.benchmark import (
    Judge,
    JudgeRequest,
    Prediction,
    Predictions,
    Quantity,
    SampleScore,
    Scores,
)
from lensmith_plugins.benchmarks.judge_texts import CHECKER
from lensmith_plugins.benchmarks.specs import PairwiseSpec

UNREAD = (-1.0, -1.0)
_MOST = 10
STRAYS = ("reference answers", "answers")
_is_review = keyed("question_id", "tuple")
_is_old_review = keyed("question_id", "score", "reviewer_id")


@dataclass(frozen=True)
class Pair:
    """A question with both answers, ready to be judged.

    `strays` are those of the two, `reference answers` and `answers`, that belong to a question with another id.
    """

    question_id: Any
    category: str
    question: str
    reference: str
    reply: str
    content: str
    place: str
    strays: tuple[str, ...] = ()


@dataclass(frozen=True)
class Review:
    """What one run of the judge said of one answer: scores of the reference and of the model."""

    question_id: Any
    category: str
    scores: tuple[float, float]
    told: str

    @property
    def read(self) -> bool:
        """Whether there are two marks that can be averaged: not `UNREAD`, nor `nan` or `inf`."""
        return self.scores != UNREAD and all(map(math.isfinite, self.scores))

    def kept(self, *, paper: bool) -> bool:
        """Whether it counts; LLaVA's summary (`paper`) averages whatever there is."""
        return paper or self.read


def two_scores(reply: str) -> tuple[float, float]:
    """The scores in the first line of a judge's reply, as LLaVA reads them; `UNREAD` where it cannot."""
    cells = reply.split("\n")[0].replace(",", " ").split(" ")
    if len(cells) != 2:
        return UNREAD
    try:
        return float(cells[0]), float(cells[1])
    except ValueError:
        return UNREAD


def reviews_form(document: Any, lines: Sequence[Line]) -> list[Prediction] | None:
    """Reviews as LLaVA writes them: `{question_id, category, content, tuple}` a line, or its older `score`."""
    key = "tuple" if _is_review(lines) else "score" if _is_old_review(lines) else None
    if key is None:
        return None
    rows = []
    for line in lines:
        value = require(line, {"question_id": (int, str), key: list}, "a review")
        scores = value[key]
        if len(scores) != 2 or not all(_is_number(score) for score in scores):
            raise DataError(f"{line.place}: {key!r} is {scores!r:.80}, not two scores")
        told = value.get("content", value.get("text", ""))
        rows.append(Prediction(value["question_id"], str(told), place=line.place, data={**value, "tuple": scores}))
    return rows


def _is_number(score: Any) -> bool:
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        return False
    try:
        return float(score) is not None
    except OverflowError:  # a number of many digits
        return False


class Pairwise(Benchmark):
    """The score is the ratio of the judge's marks for the model and for the reference, in percent."""

    spec: PairwiseSpec
    judged = True
    max_new_tokens = 1024
    read = Reader(
        {"reviews": reviews_form},
        described="reviews {question_id, tuple, …} a line, several files being runs",
        runs=frozenset({"reviews"}),
    )

    @abc.abstractmethod
    def asked_ids(self, data: Path) -> list[Any]:
        """Ids of all questions; empty where their file is not there."""

    @abc.abstractmethod
    def pairs(self, predictions: Predictions, data: Path) -> list[Pair]:
        """Questions with answers and what the judge is asked, in the order of the questions."""

    def requests(self, predictions: Predictions, data: Path) -> list[JudgeRequest]:
        """One for every question and repeat."""
        if predictions.form == "reviews":
            return []
        pairs = self.pairs(predictions, data)
        return [self._request(pair, repeat) for repeat in range(self.spec.repeats) for pair in pairs]

    def _request(self, pair: Pair, repeat: int) -> JudgeRequest:
        messages = ({"role": "system", "content": CHECKER}, {"role": "user", "content": pair.content})
        return JudgeRequest(
            f"{pair.question_id}/run {repeat + 1}",
            self.spec.judge,
            messages,
            self.spec.temperature,
            self.spec.max_tokens,
        )

    def score(self, predictions: Predictions, data: Path, judge: Judge | None = None) -> Scores:
        """Percent of the reference's marks, the mean over the runs."""
        notes: list[str] = []
        asked: dict[Any, Pair] = {}
        if predictions.form == "reviews":
            runs = [self._read_reviews(run) for run in predictions.runs or (predictions,)]
            _tell_reviews(runs, self.asked_ids(data), notes)
        else:
            if judge is None:
                raise LensmithError(
                    "these are answers, not reviews: a judge grades them; say where it is (--judge-url)"
                )
            pairs = self.pairs(predictions, data)
            asked = {pair.question_id: pair for pair in pairs}
            tell_empty(predictions.rows, notes)
            for what in STRAYS:
                if count := sum(what in pair.strays for pair in pairs):
                    notes.append(
                        f"{count} {what} stand beside a question with another id; they are paired line by line, as in"
                        " LLaVA (`pairing=id` pairs by question)"
                    )
            told = judge(self.requests(predictions, data))
            runs = []
            for start in range(0, len(told), len(pairs)):
                replies = told[start : start + len(pairs)]
                runs.append(
                    [
                        Review(pair.question_id, pair.category, two_scores(reply), reply)
                        for pair, reply in zip(pairs, replies, strict=True)
                    ]
                )
        paper = self.spec.unparsable == "paper"
        unread = [
            f"{review.question_id} (run {number})"
            for number, run in enumerate(runs, 1)
            for review in run
            if review.scores == UNREAD or not review.kept(paper=paper)
        ]
        if unread:
            what = "averaged in as -1 and -1, as in the paper" if paper else "left out"
            notes.append(f"{len(unread)} of the judge's replies hold no two scores, {what}: {named(unread, 20)}")
        if beyond := sum(
            review.read and not all(0 <= s <= _MOST for s in review.scores) for run in runs for review in run
        ):
            notes.append(f"{beyond} of the judge's replies hold marks outside 1 to {_MOST}, counted as they are")
        metrics: dict[str, Any] = self._metrics(runs, paper=paper)
        metrics["as_in_the_paper"] = self._metrics(runs, paper=True)
        metrics["unparsable_replies"] = len(unread)
        kept = [review for run in runs for review in run if review.kept(paper=paper)]
        by_question: dict[Any, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for review in kept:
            for place in (0, 1):
                by_question[review.question_id][place] += review.scores[place]
        quantities = [Quantity("all.relative", list(by_question.values()), lambda ref, model: 100 * model / ref)]
        samples = [self._sample(review, asked.get(review.question_id)) for run in runs for review in run]
        return Scores("all.relative", metrics, samples, quantities, notes)

    @staticmethod
    def _sample(review: Review, pair: Pair | None) -> SampleScore:
        reference, model = review.scores
        return SampleScore(
            review.question_id,
            model / 10 if review.read else None,
            pair.reply if pair else review.told,
            f"{model:g} against {reference:g}" if review.read else "no two scores",
            pair.reference if pair else "",
            pair.question if pair else "",
            review.category,
        )

    @staticmethod
    def _read_reviews(run: Predictions) -> list[Review]:
        return [
            Review(
                row.question_id,
                str(row.data.get("category", "")),
                (float(row.data["tuple"][0]), float(row.data["tuple"][1])),
                row.text,
            )
            for row in run.rows
        ]

    @staticmethod
    def _metrics(runs: Sequence[Sequence[Review]], *, paper: bool) -> dict[str, Any]:
        """Relative score and both means by category and over all: each run as LLaVA prints it, then their mean."""
        printed: list[dict[str, dict[str, float]]] = []
        for run in runs:
            groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for review in run:
                if review.kept(paper=paper):
                    groups["all"].append(review.scores)
                    if review.category:
                        groups[review.category].append(review.scores)
            printed.append({name: _summary(scores) for name, scores in groups.items()})
        names = sorted({name for run in printed for name in run})
        metrics: dict[str, Any] = {}
        for name in names or ["all"]:
            found: list[Mapping[str, float]] = [run[name] for run in printed if name in run]
            metrics[name] = {
                key: sum(one[key] for one in found) / len(found) if found else None
                for key in ("relative", "reference_x10", "model_x10")
            }
            if len(runs) > 1:
                metrics[name]["runs"] = [one["relative"] for one in found]
        return metrics


def _tell_reviews(runs: Sequence[Sequence[Review]], ids: Sequence[Any], notes: list[str]) -> None:
    """Note questions without a review, those with several, and reviews of other questions."""
    wanted = list(map(str, ids)) or list(dict.fromkeys(str(review.question_id) for run in runs for review in run))
    for number, run in enumerate(runs, 1):
        told = Counter(str(review.question_id) for review in run)
        where = f" in run {number}" if len(runs) > 1 else ""
        if missing := [identity for identity in wanted if not told[identity]]:
            notes.append(f"{len(missing)} questions have no review{where} and count nowhere: {named(missing)}")
        if twice := [identity for identity, count in told.items() if count > 1]:
            notes.append(f"{len(twice)} questions have several reviews{where}, all counted: {named(twice)}")
        if foreign := [identity for identity in told if identity not in set(wanted)]:
            notes.append(f"{len(foreign)} reviews{where} are of other questions, and counted: {named(foreign)}")


def _summary(scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    """As LLaVA's summary prints it: means to three decimals, then the ratio to one."""
    reference, model = (round(value, 3) for value in np.asarray(scores).mean(0).tolist())
    return {
        "relative": round(model / reference * 100, 1) if reference else 0.0,
        "reference_x10": round(reference * 10, 1),
        "model_x10": round(model * 10, 1),
    }
