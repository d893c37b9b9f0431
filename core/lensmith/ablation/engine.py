"""A study from file to report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmith.ablation.checking import require_runnable, require_specs
from lensmith.ablation.costs import planned
from lensmith.ablation.executors import Executor, Local
from lensmith.ablation.figures import write_figures
from lensmith.ablation.results import StudyResult, collect, report_path
from lensmith.ablation.scheduling import Failure, run_units
from lensmith.ablation.study import StudySpec, read_study, validate_study
from lensmith.ablation.tables import write_tables
from lensmith.ablation.units import ScoreUnit, TrainUnit, Work, missing, work
from lensmith.ablation.variants import Variant, variants
from lensmith.errors import LensmithError, Problem, SpecError
from lensmith.evaluation.choose import benchmark
from lensmith.spec.yaml import Document


@dataclass(frozen=True)
class Prepared:
    """A study whose variants are all resolved."""

    study: StudySpec
    variants: Sequence[Variant]
    work: Work
    output: Path


def prepare(
    source: str | Path | Mapping[str, Any] | StudySpec,
    output: str | Path,
    preset: str | None = None,
    *,
    runnable: bool = False,
    rows_may_come: bool = False,
) -> Prepared:
    """Resolve a study; nothing runs.

    Args:
        source, output, preset: see `ablate`.
        runnable: also check every variant and benchmark, see `require_runnable`.
        rows_may_come: see `require_runnable`.

    Raises:
        SpecError: mistakes in the study or in its variants, by variant.
    """
    study = source if isinstance(source, StudySpec) else _read(source)
    if preset is not None:
        study = study.preset(preset)
    _check_benchmarks(study)
    found = variants(study)
    if runnable:
        require_runnable(study, found, rows_may_come=rows_may_come)
    else:
        require_specs(study, found)
    target = Path(output)
    return Prepared(study, found, work(study, found, target), target)


def ablate(
    source: str | Path | Mapping[str, Any] | StudySpec,
    output: str | Path,
    *,
    preset: str | None = None,
    executor: Executor | None = None,
    tell: Callable[[str], None] | None = None,
) -> StudyResult:
    """Train, score and compare the variants of a study; what an earlier call finished is taken as it is.

    Stages that variants share (equal resolved specs and rows) are trained once. Tables and figures are in
    `OUTPUT/report`.

    Args:
        source: a study file, or the same as a mapping.
        output: folder of the study.
        preset: one of the study's own forms.
        executor: where commands run; by default here, one after another.
        tell: gets lines of progress; by default they go to standard error.

    Raises:
        SpecError: mistakes and files that are not there, by variant, before anything runs.
        LensmithError: units failed; the report of the others is written, and the logs are named.
    """
    prepared = prepare(source, output, preset, runnable=True)
    say = tell or _print
    failures = run_units(prepared.work.units(), executor or Local(), say)
    result = report(prepared)
    if failures:
        raise LensmithError(failure_text(failures, prepared.output))
    return result


def report(prepared: Prepared) -> StudyResult:
    """Write the report of what is there."""
    result = collect(prepared.study, prepared.variants, prepared.work)
    folder = report_path(prepared.output)
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("relative*", "by-*"):  # an earlier report's, of another form of the study
        for figure in folder.glob(kind):
            figure.unlink()
    drawn = [path.name for path in write_figures(result, prepared.study, folder) if path.suffix == ".png"]
    write_tables(result, prepared.study, folder, drawn)
    return result


def overview(prepared: Prepared) -> Iterator[str]:
    """What a study would run: variants, what they share, what is there already, and what it costs."""
    study, units = prepared.study, prepared.work.units()
    stages = [unit for unit in units if isinstance(unit, TrainUnit)]
    scores = [score for unit in units if isinstance(unit, ScoreUnit) for score in unit.scores]
    alone = sum(len(chain) for chain in prepared.work.training.values())
    yield f"{len(prepared.variants)} variants x {len(study.seeds)} seeds = {len(prepared.work.training)} runs"
    what = f"{len(stages)} stages to train"
    if len(stages) < alone:
        what = f"{what} instead of {alone}, for what is equal is shared"
    yield f"{what}; {sum(unit.done for unit in stages)} are done"
    yield f"{len(scores)} evaluations; {sum(score.done for score in scores)} are done"
    result = collect(study, prepared.variants, prepared.work)
    flops = [line.cost.flops for line in result.lines]
    yield ""
    for line in result.lines:
        shared = [unit.stage for unit in prepared.work.training[line.variant.name, study.seeds[0]] if _shared(unit)]
        cost = "FLOP unknown" if line.cost.flops is None else f"{line.cost.flops:.2e} FLOP"
        hours = "" if line.cost.gpu_hours is None else f", {line.cost.gpu_hours:.3g} GPU hours"
        also = f"; shares {', '.join(shared)}" if shared else ""
        yield f"  {line.variant.name}: {line.cost.trainable:,} trained parameters, {cost}{hours}{also}"
    if all(value is not None for value in flops):
        total = sum(stage.flops for unit in stages for stage in planned(study, unit.spec)[1].stages)
        yield ""
        yield f"in all {total:.2e} FLOP of training, shared stages once"
    if gone := missing(units):
        yield ""
        yield f"not here yet: {', '.join(map(str, gone))}"


def failure_text(failures: Sequence[Failure], output: Path) -> str:
    """What a user reads when units failed."""
    told = [
        f"  {failure.unit.title}: {failure.reason}{f'; see {failure.log}' if failure.log else ''}"
        for failure in failures
    ]
    return (
        f"{len(failures)} of the study's units failed; the report of the others is in {report_path(output)}. Start it"
        " again to go on:\n" + "\n".join(told)
    )


def _shared(unit: TrainUnit) -> bool:
    return len({name for name, _ in unit.owners}) > 1


def _check_benchmarks(study: StudySpec) -> None:
    """Raises:
    SpecError: a benchmark or an option that is not there, or one that needs a judge.
    """
    problems = []
    for entry in study.benchmarks:
        place = f"benchmarks.{entry.title}"
        try:
            judged = benchmark(entry.name, entry.written()).judged
        except LensmithError as error:
            problems.append(Problem(place, str(error)))
            continue
        if judged and study.judge is None:
            problems.append(Problem(place, "its answers are marked by a judge; say who, `judge: {url: …}`"))
    if problems:
        raise SpecError(problems)


def _read(source: str | Path | Mapping[str, Any]) -> StudySpec:
    if isinstance(source, Mapping):
        return validate_study(Document(dict(source), "study"))
    return read_study(Path(source))


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
