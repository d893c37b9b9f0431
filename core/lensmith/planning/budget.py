"""What the stages of a plan cost on given GPUs: FLOPs, hours, price, and whether the memory is enough."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lensmith.interfaces.shapes import Parameters
from lensmith.planning import cost
from lensmith.planning.hardware import Hardware
from lensmith.planning.plan import TYPICAL_PICTURE, TYPICAL_TEXT, Plan, row_flops
from lensmith.spec.run import RunSpec, StageSpec

_STORED = 34
"""Bytes that a decoder layer keeps for the backward pass, a position and channel, in 16 bits and without the scores of
attention (arXiv 2205.05198, section 4.1)."""
_INPUT = 2
"""Bytes of a layer's input, a position and channel: all that is kept where the rest is computed again."""


@dataclass(frozen=True)
class Need:
    """Memory of a GPU at one ZeRO stage.

    Args:
        model: bytes of weights, gradients and the optimiser's state.
        row: bytes of the activations of one row.
        fitting: rows that a GPU can take at once, 0 where not even one fits.
        enough: the stage's own micro-batch fits.
    """

    model: float
    row: float
    fitting: int
    enough: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a stage fits as the spec says it.

    Args:
        zero: ZeRO stage of the spec.
        size: rows of a step, all GPUs together.
        share: of them a GPU's; None where they cannot be shared evenly.
        micro: rows that a GPU takes at once.
        needed: bytes of a GPU, weights in the stage's own precision and offloading considered.
        memory: bytes that it has.
        fitting: most rows at once.
        best: largest micro-batch that fits and divides the share; 0 where none does.
        better_zero: the lowest higher ZeRO stage with which a row fits; None where none does or none is needed.
    """

    zero: int
    size: int
    share: int | None
    micro: int
    needed: float
    memory: float
    fitting: int
    best: int
    better_zero: int | None

    @property
    def fits(self) -> bool:
        """The spec can run as it is."""
        return self.share is not None and self.needed <= self.memory

    def told(self, count: int) -> str:
        """One line: whether it fits, and which micro-batch to set.

        Args:
            count: GPUs.
        """
        said = f"ZeRO-{self.zero}, batch.size {self.size} on {count} GPU{'s' * (count != 1)}"
        if self.share is None:
            near = max(1, self.size // count) * count
            return f"no: {said} cannot be shared evenly; set batch.size to {near} or {near + count}"
        said += f", {self.micro} row{'s' * (self.micro != 1)} at once: {_gb(self.needed)} of {_gb(self.memory)}"
        if self.best == 0:
            higher = (
                f"set deepspeed.zero: {self.better_zero}" if self.better_zero is not None else "more GPUs or offloading"
            )
            return f"no: {said}; not even one row fits: {higher}"
        steps = self.share // self.best
        micro = f"batch.micro: {self.best} ({steps} micro-step{'s' * (steps != 1)} a step)"
        if not self.fits:
            return f"no: {said}; set {micro}"
        if self.best > self.micro:
            return f"yes: {said}; {micro} fits, too, and takes fewer passes"
        return f"yes: {said}; {micro} is the largest that fits and divides a GPU's {self.share}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


@dataclass(frozen=True)
class StageBudget:
    """What one stage costs.

    Args:
        name: of the stage.
        rows: that it shows, all epochs together; None where neither the spec nor the user says how many there are.
        flops: of all rows, or of one where `rows` is None.
        gpu_hours: all GPUs together.
        hours: on the clock.
        price: of the GPU hours; None without a price.
        memory: by ZeRO stage.
        verdict: of the stage as the spec says it.
    """

    name: str
    rows: int | None
    flops: float
    gpu_hours: float
    hours: float
    price: float | None
    memory: Mapping[int, Need]
    verdict: Verdict


@dataclass(frozen=True)
class Budget:
    """A plan on hardware."""

    hardware: Hardware
    count: int
    positions: int
    stages: tuple[StageBudget, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        stages = []
        for stage in self.stages:
            memory = {f"zero_{zero}": asdict(need) for zero, need in stage.memory.items()}
            verdict = {**asdict(stage.verdict), "fits": stage.verdict.fits, "told": stage.verdict.told(self.count)}
            stages.append({**asdict(stage), "memory": memory, "as_the_spec_says": verdict})
            stages[-1].pop("verdict")
        return {
            "hardware": asdict(self.hardware),
            "gpus": self.count,
            "positions_per_row": self.positions,
            "stages": stages,
        }


def budget(
    plan: Plan,
    spec: RunSpec,
    hardware: Hardware,
    count: int,
    *,
    rows: int | Mapping[str, int] | None = None,
    text: int = TYPICAL_TEXT,
) -> Budget:
    """Cost a plan. Communication is left out: it is part of the utilisation that the hardware reaches.

    The ratios between models, tuners and sizes follow the hours that the scaling study published (arXiv 2309.09958,
    table 4) with a mean error below five per cent; see docs/cost.md.

    Args:
        plan: of the same spec.
        spec: for its stages.
        hardware, count: GPUs.
        rows: of each stage's sources, or by stage; by default counted where the files are there.
        text: text positions of a row, beside those of one picture of 480 x 640.
    """
    positions = plan.dimensions.layout(*TYPICAL_PICTURE).tokens + text
    given = rows if isinstance(rows, Mapping) else dict.fromkeys(spec.stages, rows)
    stages = tuple(
        _stage(plan, name, stage, hardware, count, given.get(name), text) for name, stage in spec.stages.items()
    )
    return Budget(hardware, count, positions, stages)


def _stage(
    plan: Plan, name: str, stage: StageSpec, hardware: Hardware, count: int, rows: int | None, text: int
) -> StageBudget:
    shown = _rows(stage, rows)
    flops = row_flops(stage, plan.dimensions, text=text) * (1 if shown is None else shown)
    gpu_hours = flops / (hardware.flops * hardware.utilisation) / 3600
    price = None if hardware.price is None else gpu_hours * hardware.price
    micro = stage.batch.micro or -(-stage.batch.size // count)
    row = _activations(plan, stage, text) * (2 if stage.precision == "fp32" else 1)
    tables = plan.dimensions.parameters()
    weight, state = cost.bytes_of(stage.precision)
    sizes = {"bytes_per_weight": weight, "optimizer_bytes": state}
    memory = {}
    for zero in (0, 1, 2, 3):
        model = cost.memory(stage.tuner, tables, zero=zero, world=count, **sizes).total
        fitting = max(0, int((hardware.memory - model) // row))
        memory[zero] = Need(model, row, fitting, enough=fitting >= micro)
    verdict = _verdict(stage, tables, hardware, count, row)
    return StageBudget(name, shown, flops, gpu_hours, gpu_hours / count, price, memory, verdict)


def _verdict(stage: StageSpec, tables: dict[str, Parameters], hardware: Hardware, count: int, row: float) -> Verdict:
    size, engine = stage.batch.size, stage.deepspeed
    share = size // count if size % count == 0 else None
    micro = min(stage.batch.micro or share or 1, share or 1)
    weight, state = cost.bytes_of(stage.precision)

    def held(zero: int) -> float:
        found = cost.memory(
            stage.tuner,
            tables,
            zero=zero,
            world=count,
            bytes_per_weight=weight,
            optimizer_bytes=state,
        )
        weights = 0.0 if engine.offload_parameters and zero == 3 else found.weights
        moved = engine.offload_optimizer and zero > 0
        return weights + (0.0 if moved else found.gradients + found.optimizer)

    def rows(zero: int) -> int:
        return max(0, int((hardware.memory - held(zero)) // row))

    fitting = rows(engine.zero)
    best = max((n for n in range(1, min(fitting, share or 0) + 1) if (share or 0) % n == 0), default=0)
    better = next((zero for zero in range(engine.zero + 1, 4) if rows(zero)), None) if not fitting else None
    needed = held(engine.zero) + micro * row
    return Verdict(engine.zero, size, share, micro, needed, hardware.memory, fitting, best, better)


def _rows(stage: StageSpec, rows: int | None) -> int | None:
    if stage.max_steps is not None:
        return stage.max_steps * stage.batch.size
    if rows is None:
        sources = stage.data.sources
        if not sources or not all(os.path.isfile(source.path) for source in sources):  # noqa: PTH113 - a path may be anything here
            return None
        from lensmith.data.sources import Mixture

        rows = Mixture(stage.data).epoch_size()
    return round(rows * stage.epochs)


def _activations(plan: Plan, stage: StageSpec, text: int) -> float:
    """Bytes of one row that the backward pass waits for: the decoder's, and its logits with their gradient."""
    language = plan.dimensions.language_model
    positions = plan.dimensions.layout(*TYPICAL_PICTURE).tokens + text
    inputs, whole = _INPUT * language.layers + _STORED, _STORED * language.layers
    kept = inputs if stage.activation_checkpointing else whole  # recomputed: one layer at a time in full
    return kept * language.width * positions + 2 * 4.0 * language.vocabulary * text
