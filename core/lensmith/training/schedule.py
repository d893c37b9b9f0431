"""Learning rate over the steps of a stage."""

from __future__ import annotations

import math

from lensmith.spec.run import ScheduleSpec


def factor(schedule: ScheduleSpec, step: int, total: int) -> float:
    """Share of the peak rate at an optimiser step, counted from 0.

    Linear warm-up from 0 over `warmup_steps`, else ceil(warmup_ratio x total) steps, then cosine, linear or no decay to
    `minimum_ratio` at `total`, as in the original's training runs (the first step of a warm-up has rate 0).
    """
    warmup = schedule.warmup_steps
    if warmup is None:
        warmup = math.ceil(schedule.warmup_ratio * total)
    if step < warmup:
        return step / warmup
    if schedule.decay == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)
    if schedule.decay == "linear":
        left = max(0.0, 1.0 - progress)
    else:
        left = max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    return schedule.minimum_ratio + (1.0 - schedule.minimum_ratio) * left
