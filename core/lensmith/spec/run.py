"""The run spec: a model and the stages that train it. These classes are what code reads; `build` adds the parts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SerializeAsAny,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from lensmith.checkpoints import SpecPath
from lensmith.interfaces.bounds import Positions, Seed, at_most
from lensmith.interfaces.specs import (
    ConnectorSpec,
    ConversationSpec,
    ImageSplitterSpec,
    LanguageModelSpec,
    TunerSpec,
    VisionEncoderSpec,
)
from lensmith.spec.pictures import PicturePolicy
from lensmith_registry import Described, PartSpec


class Section(Described):
    """A part of a spec that is not a plugin's: unknown fields are refused, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelSpec(Section):
    """The parts that a model is made of."""

    vision_encoder: SerializeAsAny[VisionEncoderSpec]
    """Pictures to features."""
    image_splitter: SerializeAsAny[ImageSplitterSpec]
    """How a picture is cut into views."""
    connector: SerializeAsAny[ConnectorSpec]
    """Features to language-model embeddings."""
    language_model: SerializeAsAny[LanguageModelSpec]
    """The language model, with its tokenizer."""
    conversation: SerializeAsAny[ConversationSpec] | None = None
    """Prompt template; by default the language model's own."""


class SourceSpec(Section):
    """One file of rows."""

    path: SpecPath
    """LLaVA conversation rows: a JSON list or JSON lines."""
    images: SpecPath | None = None
    """The folder that `image` paths start from; by default the folder of the file."""
    weight: Annotated[float, at_most(1000, "an epoch goes through the source so often; set `epochs` for more")] = Field(
        1.0, gt=0
    )
    """How often an epoch goes through the source: 2 shows every row twice, 0.5 a fresh half each epoch."""
    fraction: float = Field(1.0, gt=0, le=1)
    """Keep this random share of the rows, the same in every epoch (data-efficiency studies)."""
    seed: Seed = 0
    """Chooses the rows that `fraction` keeps."""
    missing_images: Literal["error", "text"] = "error"
    """What a row is that has no image and seems meant to have one (`image` null or an empty text, `<image>` in its
    words): a mistake, or `text`, its `<image>` included (as of code and HTML). Default error."""
    ignore: list[str] = Field([], max_length=1000)
    """Keys of rows and turns to pass over that look like data and are none, or are not wanted (`video`, `tools`, …)."""


def source_list(value: Any) -> Any:
    """`sources: rows.jsonl` and `sources: {path: …}` are short for a list of one."""
    if not isinstance(value, list):
        value = [value]
    return [{"path": item} if isinstance(item, (str, Path)) else item for item in value]


_Source = SourceSpec | str


class DataSpec(Section):
    """What a stage trains on."""

    sources: Annotated[list[SourceSpec], BeforeValidator(source_list, list[_Source] | _Source)] = Field(
        [], max_length=10_000
    )
    """Files of rows, mixed. A recipe leaves them to the spec that extends it."""
    image_placement: Literal["front", "keep"] = "front"
    """`front` moves pictures to the start of their turn, as the papers do; `keep` leaves them where they stand."""
    max_length: Positions | None = Field(None, ge=8)
    """Positions a row may take, pictures included; by default the language model's context length."""
    long_rows: Literal["truncate", "skip", "error"] = "truncate"
    """A row over `max_length` is cut at its end (never inside a picture), left out, or refused."""
    bad_rows: Literal["error", "skip"] = "error"
    """What happens to a row that cannot be used or has nothing to learn: stop, or leave it out and count it."""
    order: Literal["shuffle", "llava", "llava_grouped", "llava_grouped_v1.1"] = "shuffle"
    """Which rows share a step. `shuffle` draws rows of all sources evenly; `llava` is the order that the original
    LLaVA's runs had for a seed; `llava_grouped` its `group_by_modality_length`, micro-batches of one modality and like
    lengths; `llava_grouped_v1.1` the same as in October 2023. Default shuffle."""
    pictures: PicturePolicy = PicturePolicy()
    """How picture files are read."""
    workers: Annotated[int, at_most(256, "each is a process of every rank")] | None = Field(None, ge=0)
    """Processes of each rank that prepare rows ahead of the training step; 0 prepares them in the training process. By
    default 4 where a GPU trains (less on few cores), and 0 where the CPU itself does."""

    @model_validator(mode="after")
    def _each_row_once(self) -> DataSpec:
        if self.order != "shuffle" and any(source.weight != 1 for source in self.sources):
            raise ValueError(f"order {self.order!r} takes each row once an epoch; set every weight to 1, or shuffle")
        return self


OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "sgd", "adafactor"]


class OptimizerSpec(Section):
    """The optimiser."""

    name: OptimizerName = "adamw"
    """torch's `adamw`, `sgd` and `adafactor`; bitsandbytes' `adamw_8bit` (moments of one byte each), `paged_adamw` and
    `paged_adamw_8bit` (moments in memory that a GPU may page out). Default adamw."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay (in the gradient for sgd); never applied to biases and norms. Default 0."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of AdamW's moments. Default 0.9, 0.999."""
    eps: float = Field(1e-8, gt=0)
    """Added to AdamW's denominator. Default 1e-8."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Of sgd. Default 0."""


_Steps = Annotated[int, at_most(10**9, "as many optimiser steps would take a machine years")]


class ScheduleSpec(Section):
    """Learning rate over the steps of a stage."""

    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up. Default cosine."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps (rounded up) in which the rate rises linearly from zero. Default 0.03."""
    warmup_steps: _Steps | None = Field(None, ge=0)
    """Steps of the warm-up, instead of `warmup_ratio`. Default none."""
    minimum_ratio: float = Field(0.0, ge=0, le=1)
    """Share of the peak rate that the decay ends at. Default 0."""


_Rows = Annotated[int, at_most(2**20, "as many rows of one step fit no cluster; more steps do the same")]

Packing = Literal["auto", "on", "off"]


def _packing(value: Any) -> Any:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class BatchSpec(Section):
    """Rows of one optimiser step."""

    size: _Rows = Field(16, ge=1)
    """Rows of one optimiser step over all ranks. Results do not depend on how many ranks share them."""
    micro: _Rows | None = Field(None, ge=1)
    """Rows that a rank takes at once; the rest is accumulated. By default its whole share."""
    packing: Annotated[Packing, BeforeValidator(_packing, Packing | bool)] = "auto"
    """Lay the rows of a micro-batch end to end, each seeing only itself, so that no position is padding: the same loss
    and gradients. `auto` does where the language model attends to samples one by one; `on` (or `true`) also where it
    has to mask them, `off` (`false`) never. Default auto."""


class DeepSpeedSpec(Section):
    """The engine."""

    zero: Literal[0, 1, 2, 3] = 0
    """What is sharded over the ranks: 1 optimiser state, 2 also gradients, 3 also parameters. Default 0."""
    offload_optimizer: Literal["cpu", "nvme"] | None = None
    """Where the optimiser's state and step are, off the GPU: `cpu` from ZeRO-1 on, `nvme` with ZeRO-3. Default none."""
    offload_parameters: Literal["cpu", "nvme"] | None = None
    """Where sharded parameters wait, off the GPU; with ZeRO-3. Default none."""
    nvme_path: SpecPath | None = None
    """Folder on the disk that `nvme` writes to. Default none."""
    config: SpecPath | None = None
    """A DeepSpeed JSON whose entries are added; what belongs to the spec may not differ there. Default none."""


class CheckpointSpec(Section):
    """State that is written while a stage runs."""

    every: _Steps | None = Field(None, ge=1)
    """Write one after so many optimiser steps; by default none until the stage ends."""
    keep: _Steps = Field(2, ge=1)
    """How many of the newest are kept."""


def _not_truth(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError("should be a number of bytes, e.g. 50GB")
    return value


Bytes = Annotated[ByteSize, Field(ge=0), BeforeValidator(_not_truth), WithJsonSchema({"type": ["integer", "string"]})]
"""A number of bytes, or one with a unit: 50GB, 1.5TB, 200MiB."""


def _cache(value: Any) -> Any:
    """`cache: features` and `cache: off` are short for `{features: true}` and `{features: false}`."""
    return {"features": value == "features"} if value in ("features", "off", False) else value


class CacheSpec(Section):
    """What is computed once and read ever after; `cache: features` for short."""

    features: bool = True
    """Encode each picture once with the frozen vision encoder and keep its features (tokens x width x bytes a number:
    1.18 MB a view for CLIP-L/14-336 in half precision) for all epochs, stages and runs with the same encoder,
    splitter and type. A picture that has them is neither decoded nor encoded. Default true."""
    folder: SpecPath | None = None
    """Where features are kept, shared by the runs and ranks that name it; by default `features` in $LENSMITH_CACHE,
    else in `~/.cache/lensmith`."""
    limit: Bytes = ByteSize(100_000_000_000)
    """Bytes that the folder may take, the features of other encoders included. Default 100GB."""
    over_limit: Literal["error", "encode"] = "error"
    """When that is not enough: stop before anything is written, or keep what fits and `encode` the other pictures
    whenever they are shown. Default error."""


class StageSpec(Section):
    """One training stage: from the model before it to an artifact."""

    tuner: SerializeAsAny[TunerSpec]
    """What trains, and how its weights are held."""
    data: DataSpec = DataSpec()
    """Rows."""
    conversation: SerializeAsAny[ConversationSpec] | None = None
    """Prompt template of this stage, where it differs from the model's (`plain` in stage 1)."""
    lr: float = Field(2e-5, gt=0)
    """Peak learning rate; a tuner may set others for its groups."""
    epochs: Annotated[float, at_most(100_000, "each is a pass over all rows")] = Field(1.0, gt=0)
    """Passes over the data."""
    max_steps: _Steps | None = Field(None, ge=1)
    """Stop after so many optimiser steps; the schedule is laid out for them."""
    batch: BatchSpec = BatchSpec()
    """Rows a step."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimiser and its settings."""
    schedule: ScheduleSpec = ScheduleSpec()
    """Learning rate over time."""
    loss: Literal["tokens", "micro_batches"] = "tokens"
    """What is averaged: `tokens`, over all supervised tokens of a step, however they are shared; `micro_batches`, over
    each micro-batch on its own first, as the original LLaVA. Default tokens."""
    gradient_clipping: float = Field(0.0, ge=0)
    """Largest norm of the gradient; 0 leaves it as it is."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of weights and arithmetic; `auto` is bf16 on accelerators that have it, else fp32. `fp16` scales the loss
    and leaves out steps whose gradient overflows. Default auto."""
    tf32: bool = False
    """Multiply fp32 numbers in TF32 (10 bits of mantissa) on GPUs that have it: several times faster than exact fp32.
    Default false."""
    compile: bool = False
    """Compile the language model's blocks with torch.compile, one graph for rows of any length, where no weights are
    sharded (ZeRO-3): minutes at the start, then less time for what is not a matrix product. Default false."""
    activation_checkpointing: bool = False
    """Keep only the input of each block and compute the rest again in the backward pass. Default false."""
    cache: Annotated[CacheSpec, BeforeValidator(_cache, CacheSpec | Literal["features", "off", False])] = CacheSpec(
        features=False
    )
    """`features` keeps what a frozen vision encoder makes of each picture; a mapping says where and how much of it.
    Default off."""
    deepspeed: DeepSpeedSpec = DeepSpeedSpec()
    """Sharding and offload."""
    checkpoints: CheckpointSpec = CheckpointSpec()
    """State for `--resume`."""
    seed: Seed = 42
    """Order of the rows, dropout and fresh weights."""


MAX_STAGES = 200
"""A run of more stages is a slip of whatever wrote the spec."""

RESERVED = ("checkpoints", "metrics")
"""Folders of a run beside those of its stages."""


def _stage_name(value: Any) -> Any:
    if not (isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", value)):
        raise ValueError(
            "a stage's name is that of its folder: a lower-case letter or digit, then up to 63 of these, `_` and `-`"
        )
    if value in RESERVED:
        raise ValueError(f"a run keeps its {value} in a folder of that name; call the stage otherwise")
    return value


StageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$"), BeforeValidator(_stage_name)]


def _each_once(values: list[str]) -> list[str]:
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{', '.join(twice)} is there twice; once does it")
    return values


class LoggingSpec(Section):
    """Where a run's metrics go, besides the display and `metrics/STAGE.jsonl`, which are always there."""

    loggers: Annotated[list[Literal["tensorboard", "wandb"]], AfterValidator(_each_once)] = Field([])
    """TensorBoard files (in `metrics/tensorboard`) and Weights & Biases. Default none."""
    project: str = "lensmith"
    """Project at Weights & Biases; a stage is a run of it. Default lensmith."""


class RunSpec(Section):
    """One spec file."""

    model: ModelSpec
    """The parts."""
    stages: dict[StageName, StageSpec] = Field({}, max_length=MAX_STAGES)
    """Training stages by name, run in the order they are written; each starts from the one before."""
    start_from: SpecPath | None = None
    """An artifact whose trained weights the first stage (or the model, without stages) starts from."""
    logging: LoggingSpec = LoggingSpec()
    """Where metrics go."""
    output: SpecPath | None = None
    """Folder of the run; by default `runs/` and the name of the spec file, in the working folder."""

    def conversation_for(self, stage: StageSpec | None = None) -> PartSpec | None:
        """The template that a stage uses, or None for the language model's default."""
        return (stage.conversation if stage else None) or self.model.conversation
