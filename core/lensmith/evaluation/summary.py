"""Scores as plain data and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    return {
        "benchmark": name,
        "headline": scores.headline,
        "score": scores.value,
        "full_marks": scores.full_marks,
        "options": benchmark.spec.model_dump(mode="json"),
        "metrics": scores.metrics,
        "intervals": {"level": 0.95, "resamples": resamples, "seed": seed, "of": found},
        "samples": len(scores.samples),
        "notes": list(scores.notes),
    }


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
