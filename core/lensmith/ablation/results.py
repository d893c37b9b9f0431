"""What a study found: scores of every variant over its seeds, with intervals, costs, and verdicts on findings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lensmith.ablation.costs import planned
from lensmith.ablation.study import Finding, StudySpec
from lensmith.ablation.units import Score, TrainUnit, Work
from lensmith.ablation.variants import Variant, difference
from lensmith.io.json import read_lines

_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t, two-sided 95 %, by degrees of freedom from 1."""

MEAN = "mean"
"""Column of the mean over all benchmarks, each in per cent of its full marks."""


@dataclass(frozen=True)
class Estimate:
    """A mean and how far it may be off.

    Args:
        mean: over seeds.
        low, high: of 95 %: Student's t over seeds, but no closer than the bootstrap over questions allows, which with
            one seed stands alone; None where neither is known.
        values: one a seed.
    """

    mean: float
    low: float | None
    high: float | None
    values: Sequence[float]


@dataclass(frozen=True)
class Cost:
    """What a variant takes, its shared stages counted in full.

    Args:
        trainable: parameters of the last stage.
        flops: of all stages, from the plan; None where the rows' number is not known.
        gpu_hours: from the plan, on the study's hardware.
        last_gpu_hours: those of the last stage alone.
        seconds: on the clock while training here, the mean over seeds; None before it ran.
    """

    trainable: int
    flops: float | None
    gpu_hours: float | None
    last_gpu_hours: float | None
    seconds: float | None


@dataclass(frozen=True)
class Line:
    """One variant."""

    variant: Variant
    changes: Mapping[str, tuple[Any, Any]]
    """From the reference, by path."""
    scores: Mapping[str, Estimate]
    """By benchmark, and `MEAN` where there are several; what failed is missing."""
    cost: Cost


@dataclass(frozen=True)
class Verdict:
    """What the study says of a published finding.

    Args:
        finding: the claim.
        verdict: `agrees` or `disagrees` where the interval of the difference lies on one side of zero; else `open`.
        difference: of the scores, matched by all other axes and seeds; None where a side has no score.
        pairs: how many were matched.
    """

    finding: Finding
    verdict: Literal["agrees", "disagrees", "open"]
    difference: Estimate | None
    pairs: int


@dataclass(frozen=True)
class StudyResult:
    """All of it; `lines[0]` is the reference."""

    lines: Sequence[Line]
    verdicts: Sequence[Verdict]
    benchmarks: Sequence[str]
    unscored: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Why what was answered has no score, with the variants that it befell."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `results.json`."""
        return {
            "benchmarks": list(self.benchmarks),
            "unscored": {reason: list(variants) for reason, variants in self.unscored.items()},
            "variants": [
                {
                    "name": line.variant.name,
                    "choices": dict(line.variant.choices),
                    "changes": {path: {"reference": a, "here": b} for path, (a, b) in line.changes.items()},
                    "scores": {name: vars(estimate) for name, estimate in line.scores.items()},
                    "cost": vars(line.cost),
                }
                for line in self.lines
            ],
            "findings": [
                {
                    **v.finding.model_dump(),
                    "verdict": v.verdict,
                    "difference": vars(v.difference) if v.difference else None,
                    "pairs": v.pairs,
                }
                for v in self.verdicts
            ],
        }


def estimate(
    values: Sequence[float],
    intervals: Sequence[tuple[float, float] | None] = (),
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """Mean over repeats.

    A few seeds can agree by luck, and say nothing of other questions: Student's interval is never taken to be narrower
    than what the questions of all repeats allow.

    Args:
        values: one a repeat.
        intervals: of each value over its questions; None where that is not known.
        limits: of the scale, which the interval does not leave.
    """
    mean = statistics.fmean(values)
    known = [interval for interval in intervals if interval is not None]
    least, most = min(limits[0], mean), max(limits[1], mean)
    if len(values) == 1:
        low, high = (max(known[0][0], least), min(known[0][1], most)) if known else (None, None)
        return Estimate(mean, low, high, list(values))
    t = _T95[len(values) - 2] if len(values) - 2 < len(_T95) else 1.96
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    if known:
        questions = statistics.fmean((high - low) / 2 for low, high in known) / math.sqrt(len(values))
        half = max(half, questions)
    return Estimate(mean, max(mean - half, least), min(mean + half, most), list(values))


def collect(study: StudySpec, found: Sequence[Variant], work: Work) -> StudyResult:
    """Read what the units left; those that failed or did not run yet leave gaps."""
    titles = [entry.title for entry in study.benchmarks]
    table = _scores(study, work)
    lines = []
    for variant in found:
        by_title: dict[str, Estimate] = {}
        for title in [*titles, *([MEAN] if len(titles) > 1 else [])]:
            cells = [table[owner][title] for seed in study.seeds if title in table[owner := (variant.name, seed)]]
            if cells:
                ends = [cell.interval for cell in cells]
                by_title[title] = estimate([cell.value for cell in cells], ends, _limits(cells))
        cost = _cost(study, variant, work)
        lines.append(Line(variant, difference(variant, found[0], study), by_title, cost))
    verdicts = [_verdict(finding, study, found, table) for finding in study.findings]
    return StudyResult(lines, verdicts, titles, _unscored(work))


def _unscored(work: Work) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for (name, seed), unit in work.scoring.items():
        for score in unit.scores:
            if reason := score.unscored:
                found.setdefault(f"{score.benchmark.title}: {reason}", []).append(f"{name}, seed {seed}")
    return found


class _Cell(NamedTuple):
    """A score, its interval over questions, and the limits of its scale."""

    value: float
    interval: tuple[float, float] | None
    limits: tuple[float, float]
    full: float = 100.0


def _limits(cells: Sequence[_Cell]) -> tuple[float, float]:
    return min(cell.limits[0] for cell in cells), max(cell.limits[1] for cell in cells)


def _scores(study: StudySpec, work: Work) -> dict[tuple[str, int], dict[str, _Cell]]:
    table: dict[tuple[str, int], dict[str, _Cell]] = {}
    for owner in work.training:
        scores = work.scoring[owner].scores if owner in work.scoring else ()
        found = {score.benchmark.title: cell for score in scores if (cell := _cell(score)) is not None}
        table[owner] = dict(found)
        if len(found) > 1 and len(found) == len(study.benchmarks):
            table[owner][MEAN] = _mean(list(found.values()))
    return table


def _mean(cells: Sequence[_Cell]) -> _Cell:
    """Of all benchmarks, each in per cent of its full marks."""
    mean = statistics.fmean(100 / cell.full * cell.value for cell in cells)
    halves = [
        100 / cell.full * (cell.interval[1] - cell.interval[0]) / 2 for cell in cells if cell.interval is not None
    ]
    limits = tuple(statistics.fmean(100 / cell.full * cell.limits[end] for cell in cells) for end in (0, 1))
    if len(halves) < len(cells):
        return _Cell(mean, None, (limits[0], limits[1]))
    half = math.hypot(*halves) / len(cells)
    ends = max(mean - half, min(limits[0], mean)), min(mean + half, max(limits[1], mean))
    return _Cell(mean, ends, (limits[0], limits[1]))


def _cell(score: Score) -> _Cell | None:
    if not score.done:
        return None
    told = score.told()
    if told["score"] is None:
        return None
    ends = told["intervals"]["of"].get(told["headline"])
    full = float(told.get("full_marks", 100.0))
    least, most = told.get("limits", (0.0, full)) or (0.0, math.inf)  # no score is negative
    return _Cell(float(told["score"]), tuple(ends) if ends else None, (float(least), float(most)), full)


def _cost(study: StudySpec, variant: Variant, work: Work) -> Cost:
    found, costed = planned(study, variant.spec(study))
    known = all(stage.rows is not None for stage in costed.stages)
    hours = [stage.gpu_hours for stage in costed.stages] if known and study.hardware else []
    seconds = [_seconds(work.training[variant.name, seed]) for seed in study.seeds]
    timed = [value for value in seconds if value is not None]
    return Cost(
        trainable=found.stages[-1].trainable_parameters if found.stages else 0,
        flops=sum(stage.flops for stage in costed.stages) if known else None,
        gpu_hours=sum(hours) if hours else None,
        last_gpu_hours=hours[-1] if hours else None,
        seconds=statistics.fmean(timed) if timed else None,
    )


def _seconds(units: Sequence[TrainUnit]) -> float | None:
    """Of the steps of all stages; None where one is not there."""
    total = 0.0
    for unit in units:
        file = unit.folder / "run" / "metrics" / f"{unit.stage}.jsonl"
        if not (unit.done and file.is_file()):
            return None
        total += sum(record.value["seconds"] for record in read_lines(file))
    return total


def _verdict(
    finding: Finding,
    study: StudySpec,
    found: Sequence[Variant],
    table: Mapping[tuple[str, int], Mapping[str, _Cell]],
) -> Verdict:
    on = finding.on or (MEAN if len(study.benchmarks) > 1 else study.benchmarks[0].title if study.benchmarks else MEAN)
    differences: list[float] = []
    intervals: list[tuple[float, float] | None] = []
    least, most = math.inf, -math.inf
    for first, second in _matches(finding, found):
        for seed in study.seeds:
            ours, theirs = (table[v.name, seed].get(on) for v in (first, second))
            if ours is None or theirs is None:
                continue
            differences.append(ours.value - finding.factor * theirs.value)
            least = min(least, ours.limits[0] - finding.factor * theirs.limits[1])
            most = max(most, ours.limits[1] - finding.factor * theirs.limits[0])
            if ours.interval is None or theirs.interval is None:
                intervals.append(None)
                continue
            own, other = ((high - low) / 2 for low, high in (ours.interval, theirs.interval))
            half = math.hypot(own, finding.factor * other)
            intervals.append((differences[-1] - half, differences[-1] + half))
    if not differences:
        return Verdict(finding, "open", None, 0)
    result = estimate(differences, intervals, (least, most))
    verdict: Literal["agrees", "disagrees", "open"] = "open"
    if result.low is not None and result.high is not None:
        verdict = "agrees" if result.low > 0 else "disagrees" if result.high < 0 else "open"
    return Verdict(finding, verdict, result, len(differences))


def _matches(finding: Finding, found: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    """Variants of the one choice with those of the other that are the same on every other axis."""
    pairs = []
    for first in found:
        if not finding.better.items() <= first.choices.items():
            continue
        wanted = {**first.choices, **finding.than}
        pairs += [(first, second) for second in found if second.choices == wanted]
    return pairs


def report_path(output: Path) -> Path:
    """Folder of a study's tables and figures."""
    return output / "report"
