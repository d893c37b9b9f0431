"""Two results of the same questions, compared question by question: what differs more than the questions allow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensmith.errors import DataError, LensmithError
from lensmith.evaluation.files import Line, named, require
from lensmith.io.json import read_lines

SAMPLES = "samples.jsonl"
_Key = tuple[str, str, int]


@dataclass(frozen=True)
class Comparison:
    """One benchmark in two results, over the questions that both have.

    Args:
        title: of the benchmark.
        questions: how many were compared.
        first, second: mean score in percent.
        difference: of the second from the first, in points.
        low, high: its 95 % interval: bootstrap over questions, each with both of its answers.
        gained, lost: questions that only the second, or only the first, answers better.
        p: how likely as uneven a split of those is by chance (exact sign test; McNemar's where answers are right or
            wrong).
        notes: what a reader must know.
    """

    title: str
    questions: int
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    gained: int
    lost: int
    p: float
    notes: tuple[str, ...]


def compare(first: str | Path, second: str | Path, *, resamples: int = 10_000, seed: int = 0) -> list[Comparison]:
    """Compare two results.

    Args:
        first, second: what `lensmith eval --output` wrote, the folder of one benchmark in it, or a file of
            `lensmith score --samples`.
        resamples: of the bootstrap.
        seed: of its draws.

    Raises:
        LensmithError: there are no scores of answers, or none of the same benchmark.
        DataError: they are of other questions.
    """
    ours, theirs = _found(Path(first)), _found(Path(second))
    if len(ours) == len(theirs) == 1:
        theirs = dict(zip(ours, theirs.values(), strict=True))
    both = [title for title in ours if title in theirs]
    if not both:
        raise LensmithError(
            f"{first} and {second} have no benchmark in common: {named(list(ours), 20)} and {named(list(theirs), 20)}"
        )
    return [_one(title, ours[title], theirs[title], resamples, seed) for title in both]


def _found(path: Path) -> dict[str, Path]:
    """Files of samples by benchmark."""
    if path.is_file():
        return {path.stem: path}
    if (path / SAMPLES).is_file():
        return {path.name: path / SAMPLES}
    files = {file.parent.name: file for file in sorted(path.glob(f"*/{SAMPLES}"))} if path.is_dir() else {}
    if not files:
        raise LensmithError(
            f"{path}: no {SAMPLES} there; name what `lensmith eval --output` wrote, or a file of `lensmith score"
            " --samples`"
        )
    return files


def _one(title: str, first: Path, second: Path, resamples: int, seed: int) -> Comparison:
    ours, theirs = _samples(first), _samples(second)
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise DataError(f"{first} and {second} have no question in common (ids such as {named([k[0] for k in ours])})")
    if other := [key[0] for key in shared if ours[key]["reference"] != theirs[key]["reference"]]:
        raise DataError(f"{first} and {second}: the right answers of {len(other)} questions differ: {named(other)}")
    notes = []
    for file, own, others in ((first, ours, theirs), (second, theirs, ours)):
        if alone := [key[0] for key in own if key not in others]:
            notes.append(f"{len(alone)} questions are in {file} alone, left out: {named(alone)}")
    counted = [k for k in shared if ours[k]["score"] is not None and theirs[k]["score"] is not None]
    if len(counted) < len(shared):
        notes.append(f"{len(shared) - len(counted)} questions have no score in one of the two, left out")
    if not counted:
        raise DataError(f"{first} and {second}: no question has a score in both")
    a, b = (np.asarray([float(samples[k]["score"]) for k in counted]) for samples in (ours, theirs))
    gained, lost = int((b > a).sum()), int((b < a).sum())
    ends = _interval(b - a, resamples, seed)
    means = 100 * float(a.mean()), 100 * float(b.mean())
    return Comparison(
        title, len(counted), *means, means[1] - means[0], *ends, gained, lost, sign_test(gained, lost), tuple(notes)
    )


def _samples(path: Path) -> dict[_Key, dict[str, Any]]:
    seen: Counter[tuple[str, str]] = Counter()
    found: dict[_Key, dict[str, Any]] = {}
    for record in read_lines(path):
        form = "a sample of `lensmith score --samples`"
        value = require(Line(record.value, record.place), {"question_id": (str, int)}, form)
        score = value.get("score", "nothing")
        if isinstance(score, bool) or not (score is None or isinstance(score, (int, float))):
            raise DataError(f"{record.place}: 'score' is {score!r:.40}, which is a number or null in {form}")
        question = str(value["question_id"]), str(value.get("question", ""))
        found[(*question, seen[question])] = {**value, "reference": value.get("reference", "")}
        seen[question] += 1
    if not found:
        raise DataError(f"{path} holds no samples")
    return found


def _interval(differences: Any, resamples: int, seed: int) -> tuple[float | None, float | None]:
    """Percentile bootstrap of the mean difference, in points; None for a single question or without resamples."""
    if len(differences) < 2 or not resamples:
        return None, None
    values, counts = np.unique(differences, return_counts=True)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(differences), counts / counts.sum(), size=resamples) @ values / len(differences)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return 100 * float(low), 100 * float(high)


def sign_test(gained: int, lost: int) -> float:
    """Two-sided exact sign test: how likely a split at least as uneven is where both are equally good."""
    total, less = gained + lost, min(gained, lost)
    logs: Sequence[float] = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(less + 1)
    ]
    return min(1.0, 2 * sum(map(math.exp, logs)))
