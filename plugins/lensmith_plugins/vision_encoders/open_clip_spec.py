"""The spec of open_clip's models. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import field_validator, model_validator

from lensmith import SpecPath, VisionEncoderSpec, VisionShape, read_config
from lensmith_plugins.vision_encoders import open_clip_shape
from lensmith_plugins.vision_encoders.vit_shape import blocks_before

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


class OpenClipSpec(VisionEncoderSpec):
    """The image tower of an open_clip model, where that is a vision transformer of open_clip's own.

    The text tower is neither built nor loaded, nor are blocks past the selected layer.
    """

    model: str | None = None
    """Name of the model in open_clip, e.g. `ViT-L-14` or `ViT-B-32-quickgelu`. Default none: as the checkpoint's
    open_clip_config.json says."""

    pretrained: str | None = None
    """Tag of open_clip's weights for that model, e.g. `laion2b_s32b_b82k`, downloaded unless cached. With a checkpoint
    it only says how pictures are prepared. Default none: nothing is ever downloaded."""

    checkpoint: SpecPath | None = None
    """A .safetensors file with open_clip's tensor names, or a folder that holds open_clip_model.safetensors and
    open_clip_config.json, as open_clip's repositories do. Default none: the weights of `pretrained`, else random
    ones."""

    select_layer: int = -2
    """Which hidden state is the output, of layers + 1: 0 is the embedding after its norm, 1 the first block's
    output, -1 the last block's. Default -2, the last but one. The encoder's final norm is never applied."""

    cls_token: bool = False
    """Keep the class token, as the first token of a view. Default false: patches alone."""

    @field_validator("checkpoint")
    @classmethod
    def _no_pickle(cls, checkpoint: Path | None) -> Path | None:
        if checkpoint is not None and checkpoint.suffix in (".pt", ".pth", ".bin", ".ckpt"):
            raise ValueError(
                f"{checkpoint.name} is a pickle, which may run code when it is loaded; if you trust it, convert it"
                f" once and name the new file: {conversion(checkpoint.name)}"
            )
        return checkpoint

    @model_validator(mode="after")
    def _a_model_is_known(self) -> OpenClipSpec:
        if self.model is None and (self.checkpoint is None or self.checkpoint.suffix == ".safetensors"):
            raise ValueError(f"name the model, or give a checkpoint folder that holds {CONFIG}")
        if self.model is None and self.pretrained is not None:
            raise ValueError("pretrained is a tag of a model; name the model too")
        return self

    @classmethod
    def tiny(cls, folder: Path) -> OpenClipSpec:
        """See `PartSpec.tiny`."""
        from lensmith_plugins.vision_encoders.tiny import write_open_clip

        return cls(checkpoint=write_open_clip(folder))

    def tower_config(self) -> dict[str, Any]:
        """The model's config in open_clip's form: `embed_dim`, `vision_cfg`, `quick_gelu`, ….

        Raises:
            OSError: the checkpoint's config cannot be read.
            ValueError: there is no such model.
        """
        if self.model is not None:
            return open_clip_shape.packaged_config(self.model)
        config = read_config(str(self.checkpoint), CONFIG)
        return dict(config.get("model_cfg", config))

    def picture_config(self) -> dict[str, Any]:
        """What the checkpoint's config says about preparing pictures; empty where there is none."""
        if self.checkpoint is None or not (self.checkpoint / CONFIG).is_file():
            return {}
        return dict(read_config(str(self.checkpoint), CONFIG).get("preprocess_cfg", {}))

    def vision(self) -> dict[str, Any]:
        """The image tower's sizes by their names in open_clip, of all layers.

        Raises:
            OSError: the checkpoint's config cannot be read.
            ValueError: there is no such model, or its tower is none of open_clip's transformers.
        """
        return open_clip_shape.read_vision(self.model or str(self.checkpoint), self.tower_config())

    def blocks(self) -> int:
        """How many transformer blocks are needed for the selected layer.

        Raises:
            ValueError: the encoder does not have that layer.
        """
        return blocks_before(self.select_layer, self.vision()["layers"])

    def sources(self) -> dict[str, str]:
        """The checkpoint, or the tag of open_clip's own weights."""
        if self.checkpoint is not None:
            return {"checkpoint": str(self.checkpoint)}
        return {"pretrained": f"{self.model}:{self.pretrained}"} if self.pretrained else {}

    def fresh(self) -> bool:
        """Whether there is neither a checkpoint nor a tag."""
        return self.checkpoint is None and self.pretrained is None

    def relocated(self, folder: Path) -> OpenClipSpec:
        """The same encoder from a folder that `OpenClipEncoder.save` wrote, which holds its config too."""
        return self.model_copy(update={"model": None, "pretrained": None, "checkpoint": folder})

    def shape(self) -> VisionShape:
        """Sizes from the JSON config alone (see `VisionEncoderSpec.shape`)."""
        return open_clip_shape.vision_shape(self.vision(), self.blocks(), cls_token=self.cls_token)


def conversion(file: str) -> str:
    """The command that makes a .safetensors file of a pickle."""
    made = Path(file).with_suffix(".safetensors").name
    return (
        'python -c "import open_clip, safetensors.torch as s; s.save_file({n: t.clone() for n, t in'
        f" open_clip.factory.load_state_dict('{file}').items()}}, '{made}')\""
    )
