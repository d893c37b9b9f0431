"""The training loop of one stage: about a screen, nothing hidden."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn

from lensmith.errors import TrainingError
from lensmith.spec.run import StageSpec
from lensmith.training import distributed, schedule
from lensmith.training.engine import Engine
from lensmith.training.feed import Feed, Micro
from lensmith.training.progress import Display, Metrics


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
    display: Display,
    metrics: Metrics | None,
    after_step: Callable[[int], None],
) -> None:
    """Train from optimiser step `start` (done already) to the end of the stage.

    Args:
        after_step: called with the number of steps done, for checkpoints.

    Raises:
        DataError: a row that cannot be used, where the spec does not leave such rows out.
        TrainingError: the loss is not finite, the first step's gradients are not the plan, or no row could be used.
    """
    watch = GradientWatch(engine.model) if start == 0 else None
    engine.engine.train()  # checkpoints are loaded in evaluation mode
    learnt = 0.0
    for step, micros in enumerate(feed.batches(start), start):
        began = time.perf_counter()
        counts = count(micros, engine)
        learnt += counts.targets
        rates = engine.set_rates(schedule.factor(stage.schedule, step, feed.steps))
        total = 0.0
        for micro in micros:
            # A dummy even where no rank has a picture: ranks must use the same parameters, a loss must have a graph,
            # and ZeRO-3 would take a parameter without a gradient to have the one of the step before.
            loss = engine.forward(micro.batch.to(engine.device), dummy_picture=True)
            if not loss.requires_grad:
                raise TrainingError(
                    "the loss does not depend on anything that trains; the tuner trains what is not used"
                )
            engine.backward(loss, max(1.0, counts.targets))
            engine.step()
            total += float(loss.detach())
        if watch:
            watch.verify()
            watch = None
        (total,) = distributed.reduce([total], dist.ReduceOp.SUM, engine.device)
        loss_value = total / max(1.0, counts.targets)
        if loss_value != loss_value or abs(loss_value) == float("inf"):
            raise TrainingError(
                f"the loss is {loss_value} at step {step + 1}; lower lr, set gradient_clipping, or use fp32"
                f" (rows of this rank: {', '.join(row for m in micros for row in m.batch.rows)})"
            )
        seconds = time.perf_counter() - began
        display.step(step + 1, loss_value, max(rates.values()), counts.tokens / seconds)
        for message in (message for micro in micros for message in micro.skipped):
            display.say(f"left out: {message}")
        if metrics:
            metrics.write(
                {
                    "step": step + 1,
                    "loss": loss_value,
                    "lr": rates,
                    "gradient_norm": engine.gradient_norm(),
                    "targets": int(counts.targets),
                    "tokens": int(counts.tokens),
                    "skipped": int(counts.skipped),
                    "seconds": round(seconds, 4),
                }
            )
        after_step(step + 1)
    if start < feed.steps and not learnt:
        raise TrainingError("every row was left out, so nothing was learnt; `lensmith data check` says why")


def count(micros: list[Micro], engine: Engine) -> Counts:
    """Sum over ranks."""
    targets = float(sum(micro.batch.target_count for micro in micros))
    tokens = float(sum(int((micro.batch.segments > 0).sum()) for micro in micros))
    skipped = float(sum(len(micro.skipped) for micro in micros))
    targets, tokens, skipped = distributed.reduce([targets, tokens, skipped], dist.ReduceOp.SUM, engine.device)
    return Counts(targets, tokens, skipped)


class GradientWatch:
    """Checks at the first step that exactly the parameters that should train got a gradient."""

    def __init__(self, model: nn.Module) -> None:
        self.expected = {name for name, p in model.named_parameters() if p.requires_grad}
        self.seen: set[str] = set()
        self._hooks = [
            parameter.register_hook(self._note(name))  # type: ignore[no-untyped-call]
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]

    def _note(self, name: str) -> Callable[[Tensor], None]:
        def note(_: Tensor) -> None:
            self.seen.add(name)

        return note

    def verify(self) -> None:
        """Compare and let go.

        Raises:
            TrainingError: parameters that are to train and got no gradient.
        """
        for hook in self._hooks:
            hook.remove()
        silent = sorted(self.expected - self.seen)
        if silent:
            raise TrainingError(
                f"{len(silent)} of {len(self.expected)} parameters that are to train got no gradient in the first step,"
                f" first {silent[0]}; the tuner trains something that the model's forward does not use"
            )
