"""What `train` would do: rows, steps, what trains, how a batch is shared, memory. No weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lensmith import files, parts
from lensmith.data.fitting import readiness
from lensmith.data.order import steps_of
from lensmith.data.reader import RowReader
from lensmith.data.sources import Mixture
from lensmith.dims import Dimensions, join, untrained_rows
from lensmith.errors import DataError, TrainingError
from lensmith.features.estimate import estimate
from lensmith.features.folders import default_folder
from lensmith.interfaces.shapes import Parameters
from lensmith.io.json import decode_text, read_bytes
from lensmith.planning import cost
from lensmith.spec.run import OptimizerSpec, RunSpec, StageSpec
from lensmith.training import schedule
from lensmith.training.engine import precision_of
from lensmith.training.feed import Split
from lensmith.training.hardware import require_hardware

_MOMENT_BYTES = {"adamw": 8, "paged_adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2, "sgd": 0, "adafactor": 0}
_EXAMPLES = 3


def dry_run(spec: RunSpec, *, world: int = 1, only: str | None = None) -> Iterator[str]:
    """Lines that say what training would do.

    Args:
        spec: the spec.
        world: processes, all machines together.
        only: this stage alone.

    Raises:
        TrainingError: a batch that cannot be shared, or what this machine cannot do.
        DataError: a source that cannot be read, or rows for which training would stop.
    """
    if not spec.stages:
        raise TrainingError("the spec has no stages; add `stages:` to train")
    if only is not None:
        parts.stage_of(spec, only)
    dimensions = join(spec.model)
    start = f"the artifact {spec.start_from}" if spec.start_from else "the model"
    for name, stage in spec.stages.items():
        if only in (None, name):
            yield from _stage(spec, name, stage, start, dimensions, world)
        start = f"stage {name}"


def hosts_world(hostfile: Path) -> int:
    """Processes that a DeepSpeed hostfile names: the sum of its slots.

    Raises:
        TrainingError: it cannot be read.
    """
    try:
        lines = [line.split("#")[0].split() for line in decode_text(read_bytes(hostfile), str(hostfile)).splitlines()]
        return sum(int(word.removeprefix("slots=")) for line in lines for word in line[1:] if word.startswith("slots="))
    except ValueError as error:
        raise TrainingError(f"hostfile {hostfile}: {error}") from error


def _stage(spec: RunSpec, name: str, stage: StageSpec, start: str, dimensions: Dimensions, world: int) -> Iterator[str]:
    require_hardware(name, stage)
    split = Split.of(stage, 0, world)
    mixture = Mixture(stage.data)
    reader = RowReader(mixture, parts.conversation(spec.model, stage), parts.tokenizer(spec.model), max_length=0)
    context = dimensions.language_model.context_length
    ready = readiness(reader, dimensions, min(stage.data.max_length or context, context))
    refusal = ready.refusal(stage.data.bad_rows)
    if ready.bad and stage.data.bad_rows == "skip" and not refusal:
        mixture.drop(ready.bad)
    steps = steps_of(stage, mixture, split.accumulation)
    schedule.require_rates(f"stages.{name}", stage, steps)
    dtype = precision_of(stage)
    optimizer, rising = stage.optimizer.name, schedule.warmup(stage.schedule, steps)
    warm = f"{rising:,} step{'s' * (rising != 1)}"
    yield f"stage {name}: from {start}, {len(mixture):,} rows, {steps:,} steps of {split.size} rows"
    if refusal:
        yield "  WOULD STOP: " + refusal.replace("\n", "\n  ")
    elif ready.bad:
        yield f"  left out   {len(ready.bad)} rows that cannot be used, first {ready.first[0]}"
    yield f"  batch      {world} process(es) x {split.micro} rows x {split.accumulation} micro-steps"
    yield f"  optimiser  {optimizer}, lr {stage.lr:g}, {stage.schedule.decay} after a warm-up of {warm}"
    yield f"  engine     {str(dtype).removeprefix('torch.')}, ZeRO-{stage.deepspeed.zero}{_extras(stage)}"
    tables = dimensions.parameters()
    trainable = stage.tuner.trainable(tables)
    total = sum(cost.numel(table) for table in tables.values())
    yield f"  trains     {cost.numel(trainable):,} parameters; the model's parts have {total:,}"
    yield from _per_part(trainable)
    if told := untrained_rows(tables, trainable):
        yield f"  {told}"
    yield _memory(stage, tables, dtype, world)
    if stage.cache.features:
        yield _cache(stage, reader, dimensions, dtype)
    if refusal:
        reason = refusal.partition("\n")[0].partition(" (")[0].rstrip(":")
        raise DataError(f"stage {name!r} would stop: {reason}; `lensmith data check` lists them")


def _cache(stage: StageSpec, reader: RowReader, dimensions: Dimensions, dtype: torch.dtype) -> str:
    needed, pictures = estimate(reader, range(len(reader.mixture)), dimensions, dtype.itemsize)
    folder, limit = stage.cache.folder or default_folder(), stage.cache.limit
    over = f": MORE THAN THE LIMIT of {files.size(limit)}" if needed > limit else ""
    return f"  features   {files.size(needed)} for all of {pictures:,} pictures, kept in {folder}{over}"


def _per_part(trainable: Parameters) -> Iterator[str]:
    by_part: dict[str, list[int]] = {}
    names: dict[str, list[str]] = {}
    for parameter in trainable:
        part = parameter.name.partition(".")[0]
        by_part.setdefault(part, []).append(parameter.numel)
        names.setdefault(part, []).append(parameter.name)
    for part, sizes in by_part.items():
        yield f"    {part}: {sum(sizes):,} in {len(sizes)} tensors: {_some(names[part])}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", …" if len(names) > _EXAMPLES else "")


def _extras(stage: StageSpec) -> str:
    engine, said = stage.deepspeed, ""
    if engine.offload_optimizer:
        said += f", optimiser on {engine.offload_optimizer}"
    if engine.offload_parameters:
        said += f", parameters on {engine.offload_parameters}"
    return said + (", activations computed again in the backward pass" if stage.activation_checkpointing else "")


def _memory(stage: StageSpec, tables: dict[str, Parameters], dtype: torch.dtype, world: int) -> str:
    found = cost.memory(
        stage.tuner,
        tables,
        zero=stage.deepspeed.zero,
        world=world,
        bytes_per_weight=float(dtype.itemsize),
        optimizer_bytes=_state_bytes(stage.optimizer, dtype),
    )
    engine = stage.deepspeed
    shares = (
        ("weights", found.weights, engine.offload_parameters),
        ("gradients", found.gradients, engine.offload_optimizer),
        ("optimiser", found.optimizer, engine.offload_optimizer),
    )
    said = ", ".join(f"{what} {_bytes(size)}{f' on {place}' if place else ''}" for what, size, place in shares)
    here = sum(size for _, size, place in shares if not place)
    held = f"weights in {dtype}".replace("torch.", "")
    return f"  memory     a process, {held}: {said}; {_bytes(here)} on the device, activations on top"


def _state_bytes(optimizer: OptimizerSpec, dtype: torch.dtype) -> float:
    """Bytes that each trained weight has in the optimiser: its moments, and a copy in fp32 of weights in less."""
    momentum = 4 if optimizer.name == "sgd" and optimizer.momentum else 0
    return _MOMENT_BYTES[optimizer.name] + momentum + (4 if dtype.itemsize < 4 else 0)


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
