"""The specs of the vision encoders. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lensmith import Checkpoint, SpecPath, VisionEncoderSpec, VisionShape
from lensmith_plugins.vision_encoders import clip_shape

Colour = tuple[float, float, float]
"""One number each for red, green and blue, on pixels scaled to 0..1."""


class ClipSpec(VisionEncoderSpec):
    """A CLIP vision transformer. Blocks past the selected layer are neither built, loaded nor run."""

    checkpoint: Checkpoint | None = None
    """Local folder or hub id of a CLIP vision model or a full CLIP model. Default none: random weights, with the
    sizes of `config`."""

    config: SpecPath | None = None
    """A config.json, or the folder that holds it, read in place of the checkpoint's own: the sizes of random
    weights, or of a checkpoint that is not on disk yet. Default none: the checkpoint's."""

    select_layer: int = -2
    """Which hidden state is the output, of layers + 1: 0 is the embedding after its norm, 1 the first block's
    output, -1 the last block's. Default -2, the last but one. The encoder's final norm is never applied."""

    cls_token: bool = False
    """Keep the class token, as the first token of a view. Default false: patches alone."""

    @model_validator(mode="after")
    def _sizes_are_known(self) -> ClipSpec:
        if self.checkpoint is None and self.config is None:
            raise ValueError("give a checkpoint, or a config to build random weights from")
        return self

    def architecture(self) -> dict[str, Any]:
        """The sizes by their names in `CLIPVisionConfig`, of all layers.

        Raises:
            OSError: the config file cannot be read.
            ValueError: it is not CLIP's, or its sizes cannot work.
        """
        return clip_shape.read_architecture(str(self.config or self.checkpoint))

    def blocks(self) -> int:
        """How many transformer blocks are needed for the selected layer.

        Raises:
            ValueError: the encoder does not have that layer.
        """
        return clip_shape.blocks_before(self.select_layer, self.architecture()["num_hidden_layers"])

    def sources(self) -> dict[str, str]:
        """The checkpoint and the config, where given."""
        given = {"checkpoint": self.checkpoint, "config": self.config}
        return {name: str(source) for name, source in given.items() if source is not None}

    def fresh(self) -> bool:
        """Whether there is no checkpoint."""
        return self.checkpoint is None

    def relocated(self, folder: Path) -> ClipSpec:
        """The same encoder from a folder that `ClipEncoder.save` wrote, which holds its config too."""
        return self.model_copy(update={"checkpoint": str(folder), "config": None})

    def shape(self) -> VisionShape:
        """Sizes from config.json alone (see `VisionEncoderSpec.shape`)."""
        return clip_shape.vision_shape(self.architecture(), self.blocks(), cls_token=self.cls_token)


class TimmSpec(VisionEncoderSpec):
    """Feature maps of a timm model. Stages or blocks past the last chosen level are not built."""

    model: str
    """Name of the model in timm, e.g. `tf_efficientnet_lite0` or `vit_base_patch16_224`."""

    checkpoint: SpecPath | None = None
    """A .safetensors file with timm's tensor names, or a folder with such a `model.safetensors`. Default none:
    random weights, or timm's own with `pretrained`."""

    pretrained: bool = False
    """Download timm's weights of that name, unless cached. Default false: nothing is ever downloaded."""

    image_size: Annotated[int, Field(ge=1)] | None = None
    """Side of a view in pixels. Default none: the size that timm records for the model."""

    levels: Annotated[list[int], Field(min_length=1)] | None = None
    """Feature levels, from fine to coarse, as `out_indices` of timm counts them: stages of a convolutional model,
    blocks of a transformer; negative ones count from the end. Their widths add up. Default none: the last."""

    grid: Annotated[int, Field(ge=1)] | None = None
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
