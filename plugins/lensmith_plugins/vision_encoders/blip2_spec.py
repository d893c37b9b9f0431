"""The spec of BLIP-2's vision encoder. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lensmith import VisionShape
from lensmith_plugins.vision_encoders import blip2_shape
from lensmith_plugins.vision_encoders.transformers_specs import TransformersSpec


class Blip2Spec(TransformersSpec):
    """The vision transformer of BLIP-2 and InstructBLIP (EVA's ViT-g), without its final norm, which the `qformer`
    connector holds. Blocks past the selected layer are neither built, loaded nor run."""

    select_layer: int = -1
    """Which hidden state is the output, of layers + 1: 0 is the embedding, -1 the last block's output. Default -1, what
    the Q-Former was trained on."""

    cls_token: bool = True
    """Keep the class token, as the first token of a view. Default true, as the Q-Former was trained."""

    @classmethod
    def tiny(cls, folder: Path) -> Blip2Spec:
        """See `PartSpec.tiny`."""
        from lensmith_plugins.vision_encoders.tiny import write_transformers

        return cls(checkpoint=str(write_transformers(folder, "Blip2Vision", intermediate_size=48)))

    def architecture(self) -> dict[str, Any]:
        """The sizes by their names in `Blip2VisionConfig` (see `TransformersSpec.architecture`)."""
        return blip2_shape.read_architecture(str(self.config or self.checkpoint))

    def shape(self) -> VisionShape:
        """Sizes from config.json alone (see `VisionEncoderSpec.shape`)."""
        return blip2_shape.vision_shape(self.architecture(), self.blocks(), cls_token=self.cls_token)
