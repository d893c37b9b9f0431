"""What variants cost by the plan, before their rows are here too."""

from __future__ import annotations

from lensmith.ablation.study import StudySpec
from lensmith.planning.budget import Budget, budget
from lensmith.planning.hardware import parse_hardware
from lensmith.planning.plan import Plan, plan
from lensmith.spec.run import RunSpec, StageSpec

_ANY = "a100-80g"
"""Hardware where the study names none: only FLOPs are told then."""


def planned(study: StudySpec, spec: RunSpec) -> tuple[Plan, Budget]:
    """A spec's plan and its costs on the study's hardware; rows are counted, or as the study says (`rows`)."""
    found = plan(spec)
    rows = {name: count for name, stage in spec.stages.items() if (count := _told(study, stage)) is not None}
    return found, budget(found, spec, *parse_hardware(study.hardware or _ANY), rows=rows)


def _told(study: StudySpec, stage: StageSpec) -> int | None:
    """Rows of an epoch where the study tells those of every file; None where they are to be counted."""
    sources = stage.data.sources
    if not sources or all(source.path.is_file() for source in sources):
        return None
    counts = [study.rows.get(str(source.path)) for source in sources]
    if any(count is None for count in counts):
        return None
    return round(sum(round((n or 0) * s.fraction) * s.weight for n, s in zip(counts, sources, strict=True)))
