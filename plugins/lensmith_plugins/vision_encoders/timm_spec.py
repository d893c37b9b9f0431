"""The spec of timm's models. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lensmith import SpecPath, VisionEncoderSpec
from lensmith.interfaces.bounds import Side

Colour = tuple[float, float, float]
"""One number each for red, green and blue, on pixels scaled to 0..1."""


class TimmSpec(VisionEncoderSpec):
    """Feature maps of a timm model. Stages or blocks past the last chosen level are not built.

    Class, distillation and register tokens of a transformer are dropped, and no final norm is applied.
    """

    model: str
    """Name of the model in timm, e.g. `vit_base_patch16_224`, `eva02_large_patch14_clip_336`, `convnext_base`,
    `resnet50` or `tf_efficientnet_lite0`."""

    checkpoint: SpecPath | None = None
    """A .safetensors file with timm's tensor names, or a folder with such a `model.safetensors`. Default none:
    random weights, or timm's own with `pretrained`."""

    pretrained: bool = False
    """Download timm's weights of that name, unless cached. Default false: nothing is ever downloaded."""

    image_size: Side | None = None
    """Side of a view in pixels. Default none: the size that timm records for the model."""

    levels: Annotated[list[int], Field(min_length=1)] | None = None
    """Feature levels, from fine to coarse, as `out_indices` of timm counts them: stages of a convolutional model (0 the
    finest), blocks of a transformer (0 the first block's output); negative ones count from the end, so that -2 of a
    transformer is what `select_layer: -2` is elsewhere. Their widths add up. Default none: the last."""

    grid: Side | None = None
    """Average-pool each level to grid x grid tokens. Default none: the last chosen level's own grid."""

    normalize: bool = False
    """Standardise each token of each level over its channels (a layer norm without parameters), after pooling and
    before the levels are joined. Default false."""

    mean: Colour | None = None
    """Mean colour that is subtracted. Default none: timm's for the model."""

    std: Colour | None = None
    """Deviation that is divided by. Default none: timm's for the model."""

    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    """Filter of the resize. Default bicubic."""

    crop_pct: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the shortest edge that the centre crop keeps. Default 1: the shortest edge is resized to
    `image_size` and the longer one loses its ends."""

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> TimmSpec:
        if self.checkpoint is not None and self.pretrained:
            raise ValueError("give a checkpoint, or set pretrained for timm's own weights, not both")
        return self

    @classmethod
    def tiny(cls, folder: Path) -> TimmSpec:
        """See `PartSpec.tiny`."""
        return cls(model="test_vit2", image_size=64, levels=[0, -2])

    def sources(self) -> dict[str, str]:
        """The checkpoint, or the name of timm's own weights."""
        if self.checkpoint is not None:
            return {"checkpoint": str(self.checkpoint)}
        return {"pretrained": self.model} if self.pretrained else {}

    def fresh(self) -> bool:
        """Whether there is neither a checkpoint nor timm's own weights."""
        return self.checkpoint is None and not self.pretrained

    def relocated(self, folder: Path) -> TimmSpec:
        """The same encoder from a folder that `TimmEncoder.save` wrote."""
        return self.model_copy(update={"checkpoint": folder, "pretrained": False})
