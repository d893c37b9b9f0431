"""Scores as plain data and as lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from lensmith.evaluation.statistics import intervals
from lensmith.interfaces.benchmark import Benchmark, Scores

RESAMPLES = 1000


def summary(
    name: str, benchmark: Benchmark, scores: Scores, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """What `--json` prints and `summary.json` holds.

    Args:
        name: of the benchmark.
        benchmark: with its options.
        scores: what it found.
        resamples: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.
    """
    found = intervals(scores.quantities, resamples=resamples, seed=seed) if resamples else {}
    limits = {quantity.name: quantity.limits for quantity in scores.quantities}.get(scores.headline)
    return {
        "benchmark": name,
        "headline": scores.headline,
        "score": scores.value,
        "full_marks": scores.full_marks,
        "limits": None if limits is None else list(limits),
        "options": benchmark.spec.model_dump(mode="json"),
        "metrics": scores.metrics,
        "intervals": {"level": 0.95, "resamples": resamples, "seed": seed, "of": found},
        "samples": len(scores.samples),
        "suffix": benchmark.suffix,
        "notes": [*scores.notes, *_nothing_right(benchmark, scores)],
    }


def asked_with(name: str, suffix: str, spec_fields: Iterable[str]) -> str:
    """What ends every question, and the option that changes it where there is one; empty without a suffix.

    Args:
        name: of the benchmark.
        suffix: see `Benchmark.suffix`.
        spec_fields: names of its options.
    """
    if not suffix:
        return ""
    words = " ".join(suffix.split())
    change = " (`-o suffix=TEXT` changes it, `-o suffix=` asks without)" if "suffix" in spec_fields else ""
    return f"{name}: every question ends with {words!r}{change}"


def _nothing_right(benchmark: Benchmark, scores: Scores) -> list[str]:
    """A note where no answer is right, with an example and what ended the questions."""
    counted = [sample for sample in scores.samples if sample.score is not None]
    if not counted or any(sample.score for sample in counted):
        return []
    said = next((sample for sample in counted if sample.prediction.strip()), counted[0])
    reply, right = " ".join(said.prediction.split()), " ".join(said.reference.split())
    note = f"nothing is right: the reply to question {said.question_id} is {reply!r:.60}, and right is {right!r:.60}"
    why = asked_with("asked by `lensmith eval`", benchmark.suffix, type(benchmark.spec).model_fields)
    return [f"{note}; {why}" if why else note]


def sample_rows(scores: Scores) -> Iterator[dict[str, Any]]:
    """One mapping for each scored answer."""
    return (asdict(sample) for sample in scores.samples)


def lines(told: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value and interval of each metric of a `summary`, the headline first."""
    found = told["intervals"]["of"]
    rows = dict(_flat(told["metrics"]))
    headline = told["headline"]
    for name in [headline, *(name for name in rows if name != headline)]:
        ends = found.get(name)
        yield name, _number(rows[name]), f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else ""


def _flat(metrics: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "-" if value is None else str(value)
