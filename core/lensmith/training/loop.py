"""The training loop of one stage: about a screen, nothing hidden."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

from lensmith.errors import TrainingError
from lensmith.spec.run import StageSpec
from lensmith.training import distributed, memory, schedule
from lensmith.training.divergence import Diverged
from lensmith.training.engine import Engine
from lensmith.training.feed import Feed, Micro
from lensmith.training.loggers import StepLog
from lensmith.training.watch import GradientWatch

Result = TypeVar("Result")


@dataclass
class Counts:
    """What a step's micro-batches hold over all ranks."""

    targets: float
    tokens: float
    skipped: float


def run(
    engine: Engine,
    feed: Feed,
    stage: StageSpec,
    start: int,
    log: StepLog,
    after_step: Callable[[int], None],
) -> None:
    """Train from optimiser step `start` (done already) to the end of the stage.

    Args:
        log: gets the numbers of every step.
        after_step: called with the number of steps done, for checkpoints.

    Raises:
        DataError: a row that cannot be used, where the spec does not leave such rows out.
        Diverged: the loss is not finite.
        OutOfMemory: there is no memory for a step.
        TrainingError: the first step's gradients are not the plan, or no row could be used.
    """
    watch = GradientWatch(engine.model) if start == 0 else None
    engine.engine.train()  # checkpoints are loaded in evaluation mode
    learnt = 0.0
    began = time.perf_counter()
    steps = enumerate(feed.batches(start), start)
    step = start - 1
    while (ahead := _in_memory(lambda: next(steps, None), step + 1, moved=lambda: False)) is not None:
        step, micros = ahead
        counts = count(micros, engine)
        learnt += counts.targets
        rates = engine.set_rates(schedule.factor(stage.schedule, step, feed.steps))
        taken = _Step(engine, stage, micros, counts)
        total = _in_memory(taken.run, step, moved=lambda: taken.moving)  # noqa: B023 - called at once
        if watch:
            watch.verify()
            watch = None
        (loss_value,) = distributed.reduce([total], dist.ReduceOp.SUM, engine.device)
        if loss_value != loss_value or abs(loss_value) == float("inf"):
            rows = ", ".join(row for m in micros for row in m.batch.rows)
            raise Diverged(f"the loss is {loss_value} at step {step + 1} (rows of this rank: {rows})")
        entry = {
            "step": step + 1,
            "loss": loss_value,
            "lr": rates,
            "gradient_norm": engine.gradient_norm(),
            "targets": int(counts.targets),
            "tokens": int(counts.tokens),
            "skipped": int(counts.skipped),
            "seconds": round(time.perf_counter() - began, 6),
        }
        messages = [f"left out: {message}" for micro in micros for message in micro.skipped]
        log.step(entry, messages + engine.messages())
        after_step(step + 1)
        began = time.perf_counter()
    if start < feed.steps and not learnt:
        raise TrainingError("every row was left out, so nothing was learnt; `lensmith data check` says why")


class _Step:
    """Forward and backward of a step's micro-batches, and the optimiser's move."""

    def __init__(self, engine: Engine, stage: StageSpec, micros: list[Micro], counts: Counts) -> None:
        self.engine, self.stage, self.micros, self.counts = engine, stage, micros, counts
        self.moving = False

    def run(self) -> float:
        """The loss of this rank's rows."""
        total = 0.0
        for number, micro in enumerate(self.micros, 1):
            # A dummy even where no rank has a picture: ranks must use the same parameters, a loss must have a graph,
            # and ZeRO-3 would take a parameter without a gradient to have the one of the step before.
            loss = self.engine.forward(micro.batch.to(self.engine.device), dummy_picture=True)
            if not loss.requires_grad:
                raise TrainingError(
                    "the loss does not depend on anything that trains; the tuner trains what is not used"
                )
            targets = averaged_over(self.stage, micro, self.counts, self.engine)
            self.engine.backward(loss, targets)
            self.moving = number == len(self.micros)
            self.engine.step()
            total += float(loss.detach()) / targets
        return total


def _in_memory(action: Callable[[], Result], step: int, *, moved: Callable[[], bool]) -> Result:
    """Do something of a step.

    Raises:
        OutOfMemory: there was no memory for it.
    """
    try:
        return action()
    except (RuntimeError, MemoryError, OSError) as error:
        if not memory.is_out_of_memory(error):
            raise
        said = memory.told(error)
    # Out of the handler, so that what the failed step holds is free.
    raise memory.OutOfMemory(f"no memory for step {step + 1} ({said})", moved=moved())


def averaged_over(stage: StageSpec, micro: Micro, counts: Counts, engine: Engine) -> float:
    """What a micro-batch's summed loss is divided by, so that the sum over ranks and micro-steps is the step's loss."""
    if stage.loss == "tokens":
        return max(1.0, counts.targets)
    return float(max(1, micro.batch.target_count) * engine.split.accumulation * engine.split.world)


def count(micros: list[Micro], engine: Engine) -> Counts:
    """Sum over ranks."""
    targets = float(sum(micro.batch.target_count for micro in micros))
    tokens = float(sum(int((micro.batch.segments > 0).sum()) for micro in micros))
    skipped = float(sum(len(micro.skipped) for micro in micros))
    targets, tokens, skipped = distributed.reduce([targets, tokens, skipped], dist.ReduceOp.SUM, engine.device)
    return Counts(targets, tokens, skipped)
