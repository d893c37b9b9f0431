"""`lensmith plan`: dimensions joined from config files, tokens a picture, what trains, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lensmith.dims import Dimensions, join
from lensmith.errors import LensmithError, Problem, SpecError
from lensmith.interfaces.shapes import Parameters
from lensmith.planning import cost
from lensmith.spec.build import load_spec
from lensmith.spec.run import RunSpec, StageSpec

SAMPLE_SIZES = ((336, 336), (480, 640), (1080, 1920))
"""(height, width) in pixels of the pictures whose tokens a plan shows."""
TYPICAL_PICTURE = SAMPLE_SIZES[1]
TYPICAL_TEXT = 256
"""Picture and text positions of the row whose FLOPs a plan shows."""
WORLD = 8
"""GPUs that the memory table assumes where nobody says how many there are."""


@dataclass(frozen=True)
class PictureTokens:
    """Positions that a picture takes."""

    height: int
    width: int
    views: int
    tokens: int


@dataclass(frozen=True)
class StagePlan:
    """What a stage trains and costs."""

    name: str
    trainable: Parameters
    max_length: int
    flops_per_row: float
    memory: Mapping[int, cost.Memory]
    """Bytes a GPU by ZeRO stage, on the plan's GPUs."""
    zero: int = 0
    """The ZeRO stage that the spec says."""
    precision: str = "bf16"
    """What `memory` counts weights in: fp32, fp16 or bf16, which `auto` is on a GPU that has it."""

    @property
    def trainable_parameters(self) -> int:
        """Elements that train."""
        return cost.numel(self.trainable)

    def trainable_in(self, part: str) -> int:
        """Elements that train in one part, adapters on it included."""
        return sum(parameter.numel for parameter in self.trainable if parameter.name.startswith(f"{part}."))


@dataclass(frozen=True)
class Plan:
    """What a spec will build."""

    dimensions: Dimensions
    pictures: Sequence[PictureTokens]
    parameters: Mapping[str, int]
    stages: Sequence[StagePlan]
    world: int = WORLD
    """GPUs that the memory of the stages is for."""

    @property
    def total_parameters(self) -> int:
        """Elements of the whole model."""
        return sum(self.parameters.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        encoder, connector = self.dimensions.encoder, self.dimensions.connector
        language = self.dimensions.language_model
        return {
            "dimensions": {
                "image_size": list(encoder.image_size),
                "grid": list(encoder.grid),
                "vision_tokens": encoder.tokens,
                "vision_width": encoder.width,
                "tokens_per_view": connector.tokens,
                "language_width": language.width,
                "vocabulary": language.vocabulary,
                "context_length": language.context_length,
            },
            "tokens_per_image": [asdict(picture) for picture in self.pictures],
            "parameters": {**self.parameters, "total": self.total_parameters},
            "gpus": self.world,
            "stages": [
                {
                    "name": stage.name,
                    "trainable_parameters": stage.trainable_parameters,
                    "trainable_parameters_by_part": {part: stage.trainable_in(part) for part in self.parameters},
                    "trainable": [{"name": p.name, "shape": list(p.shape)} for p in stage.trainable],
                    "max_length": stage.max_length,
                    "flops_per_row": stage.flops_per_row,
                    "zero": stage.zero,
                    "precision": stage.precision,
                    "memory_bytes_per_gpu": {
                        f"zero_{zero}": {**asdict(m), "total": m.total} for zero, m in stage.memory.items()
                    },
                }
                for stage in self.stages
            ],
        }


def plan(spec: RunSpec | Mapping[str, Any] | str | Path, *, overrides: Sequence[str] = (), world: int = WORLD) -> Plan:
    """Plan a spec from config files; parts without closed forms are built on torch's meta device.

    Args:
        spec: a file, a mapping or a spec.
        overrides: `dotted.path=value`.
        world: GPUs that share a stage, for its memory.

    Raises:
        SpecError: parts that do not fit or configs that cannot be read.
    """
    loaded = load_spec(spec, overrides)
    try:
        dimensions = join(loaded.model)
        tables = dimensions.parameters()
        pictures = [_picture(dimensions, height, width) for height, width in SAMPLE_SIZES]
        stages = [_stage(name, stage, dimensions, world) for name, stage in loaded.stages.items()]
    except (ValueError, OSError, LensmithError) as error:
        raise SpecError([Problem("model", str(error))]) from error
    parameters = {part: cost.numel(table) for part, table in tables.items()}
    return Plan(dimensions, pictures, parameters, stages, world)


def _picture(dimensions: Dimensions, height: int, width: int) -> PictureTokens:
    layout = dimensions.layout(height, width)
    return PictureTokens(height, width, layout.views, layout.tokens)


def row_flops(stage: StageSpec, dimensions: Dimensions, *, text: int = TYPICAL_TEXT) -> float:
    """FLOPs of one training row of a stage: one picture of `TYPICAL_PICTURE` and `text` text positions."""
    tables = dimensions.parameters()
    trainable = stage.tuner.trainable(tables)
    own = {f"language_model.{p.name}" for p in tables["language_model"]}
    layout = dimensions.layout(*TYPICAL_PICTURE)
    return cost.training_flops(
        dimensions.language_model,
        dimensions.encoder,
        positions=layout.tokens + text,
        views=layout.views,
        adapters=sum(p.numel for p in trainable if p.name.startswith("language_model.") and p.name not in own),
        full=any(p.name in own for p in trainable),
        encoder_trains=any(p.name.startswith("vision_encoder.") for p in trainable),
        recompute=stage.activation_checkpointing,
    )


def _stage(name: str, stage: StageSpec, dimensions: Dimensions, world: int) -> StagePlan:
    tables = dimensions.parameters()
    weight, state = cost.bytes_of(stage.precision)
    sizes = {"bytes_per_weight": weight, "optimizer_bytes": state}
    table = {zero: cost.memory(stage.tuner, tables, zero=zero, world=world, **sizes) for zero in (0, 1, 2, 3)}
    context = dimensions.language_model.context_length
    limit = min(stage.data.max_length or context, context)
    flops, trainable = row_flops(stage, dimensions), stage.tuner.trainable(tables)
    precision = "bf16" if stage.precision == "auto" else stage.precision
    return StagePlan(name, trainable, limit, flops, table, stage.deepspeed.zero, precision)
