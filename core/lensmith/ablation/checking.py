"""Everything that is wrong with a study, by variant, before anything trains: as `lensmith check` says of one spec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lensmith.ablation.study import StudySpec
from lensmith.ablation.variants import Variant
from lensmith.errors import LensmithError, Problem, SpecError
from lensmith.spec.check import check
from lensmith.spec.run import RunSpec

_NAMED = 3
"""Variants that are named where several have one problem."""


def require_specs(study: StudySpec, found: Sequence[Variant]) -> None:
    """Resolve the spec of every variant.

    Raises:
        SpecError: the mistakes of all variants.
    """
    _refuse(_resolved(study, found)[1], len(found))


def require_runnable(study: StudySpec, found: Sequence[Variant], *, rows_may_come: bool = False) -> None:
    """Check every variant as `lensmith check` checks a spec, and that the benchmarks' questions and images are there.

    Args:
        study: the study.
        found: its variants.
        rows_may_come: files of rows whose number the study tells (`rows`) need not be there yet; nor, where one of
            them is not, the folders of benchmarks.

    Raises:
        SpecError: everything that is wrong, by variant.
    """
    specs, problems = _resolved(study, found)
    coming = False
    for name, spec in specs.items():
        later = set(_told_rows(study, spec)) if rows_may_come else set()
        coming = coming or bool(later)
        if wrong := [problem for problem in check(spec) if problem.path not in later]:
            problems[name] = wrong
    _refuse(problems, len(found), _benchmark_problems(study, may_come=coming))


def _resolved(study: StudySpec, found: Sequence[Variant]) -> tuple[dict[str, RunSpec], dict[str, Sequence[Problem]]]:
    """Specs of the variants that have one, and the mistakes of the others."""
    specs: dict[str, RunSpec] = {}
    problems: dict[str, Sequence[Problem]] = {}
    for variant in found:
        try:
            specs[variant.name] = variant.resolved(study)
        except SpecError as error:
            problems[variant.name] = error.problems
    return specs, problems


def _benchmark_problems(study: StudySpec, *, may_come: bool) -> list[Problem]:
    """Benchmarks whose questions or images cannot be read."""
    from lensmith.evaluation.run import suite_tasks
    from lensmith.evaluation.runner import jobs

    problems = []
    for entry in study.benchmarks:
        place = f"benchmarks.{entry.title}"
        gone = [path for path in (entry.data, entry.images) if path is not None and not path.exists()]
        if gone:
            problems += [] if may_come else [Problem(place, f"{path} does not exist") for path in gone]
            continue
        try:
            jobs(suite_tasks([entry]), Path())
        except LensmithError as error:
            problems.append(Problem(place, str(error)))
    return problems


def _told_rows(study: StudySpec, spec: RunSpec) -> Iterable[str]:
    """Paths in the spec of files that the study says how many rows they will have."""
    for name, stage in spec.stages.items():
        for number, source in enumerate(stage.data.sources):
            if str(source.path) in study.rows and not source.path.exists():
                here = f"stages.{name}.data.sources.{number}"
                yield from (f"{here}.path", f"{here}.images")


def _refuse(by_variant: Mapping[str, Sequence[Problem]], count: int, more: Sequence[Problem] = ()) -> None:
    owners: dict[Problem, list[str]] = {}
    for name, problems in by_variant.items():
        for problem in problems:
            owners.setdefault(problem, []).append(name)
    told = [replace(problem, message=f"{_whose(names, count)}: {problem.message}") for problem, names in owners.items()]
    if told or more:
        raise SpecError([*told, *more])


def _whose(names: Sequence[str], count: int) -> str:
    if len(names) == count > 1:
        return f"all {count} variants"
    shown = ", ".join(map(repr, names[:_NAMED]))
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"variant{'s' * (len(names) > 1)} {shown}{rest}"
