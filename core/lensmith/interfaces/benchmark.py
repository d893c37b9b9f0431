"""Benchmark: what the model is asked, how its answers are read and scored, and what is handed in. No torch here."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from lensmith_registry import PartSpec


class BenchmarkSpec(PartSpec, abc.ABC):
    """Spec of a benchmark: its fields are how it is asked and scored, e.g. by whose rules (`--option NAME=VALUE`)."""


class JudgedSpec(BenchmarkSpec):
    """Spec of a benchmark whose replies are graded by another model."""

    judge: str = "gpt-4"
    """The judge's model."""

    temperature: float = Field(0.0, ge=0)
    """The judge's temperature. By default 0."""

    repeats: int = Field(1, ge=1)
    """How often everything is judged; the score is the mean. By default 1."""


@dataclass(frozen=True)
class Item:
    """One question to the model.

    Args:
        question_id: as the benchmark's prediction files write it; need not be unique.
        prompt: the words, response-format sentence included, without placeholder.
        images: picture files, or a picture file's bytes; shown before the words.
        reference: the right answer, for a reader of the report.
        category: of the question, for a reader of the report.
        choices: continuations of the raw `prompt` whose likelihoods are compared; then nothing is generated.
        fallbacks: shorter prompts to ask instead, best first, where `prompt` does not fit the model's context.
        extra: further keys of the prediction line.
        candidates: replies, each with the answer that stands for it; the reply of the likeliest answer is given, and
            nothing is generated.
        per_token: compare the candidates by the mean over their tokens, not by the sum.
    """

    question_id: str | int
    prompt: str
    images: tuple[Path | bytes, ...] = ()
    reference: str = ""
    category: str = ""
    choices: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    candidates: Mapping[str, str] = field(default_factory=dict)
    per_token: bool = False


@dataclass(frozen=True)
class Prediction:
    """One answer that is scored.

    Args:
        question_id: as the file has it.
        text: the reply.
        prompt: what was asked, where the file says so.
        place: file and line, for messages.
        data: all that the file says of it.
    """

    question_id: str | int
    text: str
    prompt: str = ""
    place: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictions:
    """What prediction files hold.

    Args:
        rows: in the order of the file; in a mapping of runs, those of the first.
        form: which of the benchmark's formats it was, e.g. `llava`.
        skipped: lines that are no JSON, for benchmarks whose own tools pass over them.
        runs: the same of each file, where several were given.
        partial: only some questions were asked (`lensmith eval --limit`): those without a prediction do not count,
            where a benchmark can be scored in part at all.
        notes: what was left out of the replies as they were read.
    """

    rows: Sequence[Prediction]
    form: str = "llava"
    skipped: Sequence[str] = ()
    runs: Sequence[Predictions] = ()
    partial: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class SampleScore:
    """The score of one answer, for people who look for mistakes.

    Args:
        question_id: of the question.
        score: 0 is wrong, 1 is right; None where it counts nowhere (a judge's reply that cannot be read).
        prediction: the reply.
        read_as: what the scorer made of the reply.
        reference: the right answer.
        question: the words of the question.
        category: as in the metrics.
    """

    question_id: str | int
    score: float | None
    prediction: str
    read_as: str = ""
    reference: str = ""
    question: str = ""
    category: str = ""


@dataclass(frozen=True)
class Quantity:
    """A number of the metrics as a function of sums over units that could have been drawn otherwise.

    Args:
        name: its path in the metrics, e.g. `adversarial.f1`.
        rows: for each unit (a question, a picture with its two questions, a circular group) its K summands.
        combine: the K sums, as arrays of one length, to the number.
        strata: for each unit the group that it is drawn within, so that every group keeps its size; by default one.
        limits: the least and the most that the number can be, where it is bounded: its interval then stays within, and
            is no point where all units are equal.
    """

    name: str
    rows: Sequence[Sequence[float]]
    combine: Callable[..., Any]
    strata: Sequence[int] = ()
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Scores:
    """What a scorer found.

    Args:
        headline: the metric that a table of results shows, as a path in `metrics`.
        metrics: numbers, nested by name; percent unless the benchmark has points of its own.
        samples: one for each answer, in the order of the predictions.
        quantities: those numbers whose uncertainty is estimated.
        notes: what a reader must know: lines passed over, questions without an answer, replies that were not read.
        full_marks: the headline of a model that is always right, so that benchmarks can be averaged.
    """

    headline: str
    metrics: Mapping[str, Any]
    samples: Sequence[SampleScore] = ()
    quantities: Sequence[Quantity] = ()
    notes: Sequence[str] = ()
    full_marks: float = 100.0

    @property
    def value(self) -> Any:
        """The headline's number."""
        found: Any = self.metrics
        for name in self.headline.split("."):
            found = found[name]
        return found


@dataclass(frozen=True)
class JudgeRequest:
    """One question to a judge.

    Args:
        key: names it in lists and in the cache: what is judged, which repeat, which attempt.
        model: the judge, e.g. `gpt-4-0613`.
        messages: chat messages, `{"role": …, "content": …}` each.
        temperature: of the judge.
        max_tokens: longest reply.
    """

    key: str
    model: str
    messages: tuple[Mapping[str, str], ...]
    temperature: float
    max_tokens: int


class Judge(Protocol):
    """Answers requests, from its cache or from an endpoint."""

    def __call__(self, requests: Sequence[JudgeRequest]) -> list[str]:
        """Replies in the order of the requests.

        Raises:
            LensmithError: the endpoint fails, or a reply is not in the cache and there is no endpoint.
        """


class Benchmark(abc.ABC):
    """One benchmark, made from its spec. Reading and scoring need no model, asking needs no scorer."""

    max_new_tokens: int = 128
    """Longest reply that the papers allowed."""
    judged: bool = False
    """Whether another model grades the replies."""
    suffix: str = ""
    """The sentence behind every question that says what an answer should look like; told beside the scores."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    @abc.abstractmethod
    def items(self, data: Path, images: Path) -> list[Item]:
        """All questions, in the order in which their predictions are scored.

        Args:
            data: folder (or file) with the official files.
            images: folder below which the pictures are.

        Raises:
            DataError: a file is missing or is not what it should be; names the file and the line.
        """

    @abc.abstractmethod
    def read(self, files: Sequence[Path]) -> Predictions:
        """Predictions in any of the benchmark's formats, told apart by what is in the files.

        Raises:
            DataError: none of them; names the file, the line and the formats.
        """

    @abc.abstractmethod
    def score(self, predictions: Predictions, data: Path, judge: Judge | None = None) -> Scores:
        """Score.

        Args:
            predictions: what `read` gave.
            data: folder (or file) with the official files.
            judge: for a judged benchmark whose predictions are no grades yet.

        Raises:
            DataError: predictions that do not fit the questions; names them.
        """

    def requests(self, predictions: Predictions, data: Path) -> list[JudgeRequest]:
        """What a judge is certainly asked; a reply may lead to further requests. By default nothing."""
        return []

    def submission(self, predictions: Predictions, data: Path, folder: Path) -> list[Path]:
        """Write the file that the benchmark's server takes.

        Returns:
            The files; by default none, where a benchmark is scored locally.
        """
        return []
