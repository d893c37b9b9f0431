"""Learning rate over the steps of a stage."""

from __future__ import annotations

import math

from lensmith.errors import TrainingError
from lensmith.spec.run import ScheduleSpec, StageSpec


def warmup(schedule: ScheduleSpec, total: int) -> int:
    """Steps of the warm-up: `warmup_steps`, else ceil(warmup_ratio x total); never all of them, so that something is
    learnt in a run of one step."""
    wanted = schedule.warmup_steps
    if wanted is None:
        wanted = math.ceil(schedule.warmup_ratio * total)
    return min(wanted, total - 1)


def require_rates(path: str, stage: StageSpec, steps: int) -> None:
    """Refuse a warm-up in which a stage would end.

    Args:
        path: of the stage in the spec.
        stage: the stage.
        steps: that it takes.

    Raises:
        TrainingError: with both numbers, before anything is loaded.
    """
    wanted = stage.schedule.warmup_steps
    if wanted is not None and wanted >= max(steps, 2):
        raise TrainingError(
            f"{path}.schedule.warmup_steps: {wanted} warm-up steps leave none of the stage's {steps} for the peak rate;"
            " lower it, or give a warmup_ratio"
        )


def factor(schedule: ScheduleSpec, step: int, total: int) -> float:
    """Share of the peak rate at an optimiser step, counted from 0.

    Linear warm-up from 0 (see `warmup`), then cosine, linear or no decay to `minimum_ratio` at `total`, as in the
    original's training runs (the first step of a warm-up has rate 0).
    """
    rising = warmup(schedule, total)
    if step < rising:
        return step / rising
    if schedule.decay == "constant":
        return 1.0
    progress = (step - rising) / max(1, total - rising)
    if schedule.decay == "linear":
        left = max(0.0, 1.0 - progress)
    else:
        left = max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    return schedule.minimum_ratio + (1.0 - schedule.minimum_ratio) * left
