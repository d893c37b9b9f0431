"""BLIP-2's vision transformer through transformers."""

from __future__ import annotations

from typing import Any

from transformers import Blip2VisionConfig, Blip2VisionModel, BlipImageProcessorPil

from lensmith_plugins.vision_encoders.blip2_spec import Blip2Spec
from lensmith_plugins.vision_encoders.transformers_vit import TransformersEncoder


class Blip2Encoder(TransformersEncoder):
    """The image encoder of BLIP-2 (Li et al. 2023, arXiv 2301.12597) and InstructBLIP."""

    title = "BLIP-2"
    final_norm = "post_layernorm"
    prefix = 1

    @classmethod
    def classes(cls, architecture: dict[str, Any]) -> tuple[Any, Any]:
        """Config and model class of transformers."""
        return Blip2VisionConfig, Blip2VisionModel

    @classmethod
    def processor(cls, spec: Blip2Spec) -> BlipImageProcessorPil:
        """The checkpoint's processor, else BLIP-2's own: both sides resized, whatever the aspect ratio."""
        settings = spec.preprocessor()
        if settings is None:
            height, width = spec.view_size()
            return BlipImageProcessorPil(size={"height": height, "width": width})
        return BlipImageProcessorPil.from_dict(settings)
