"""CLIP's vision transformer through transformers."""

from __future__ import annotations

from typing import Any

from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from lensmith_plugins.vision_encoders.transformers_specs import ClipSpec
from lensmith_plugins.vision_encoders.transformers_vit import TransformersEncoder


class ClipEncoder(TransformersEncoder):
    """A CLIP vision model (Radford et al. 2021, arXiv 2103.00020)."""

    title = "CLIP"
    final_norm = "post_layernorm"
    prefix = 1

    @classmethod
    def classes(cls, architecture: dict[str, Any]) -> tuple[Any, Any]:
        """Config and model class of transformers."""
        return CLIPVisionConfig, CLIPVisionModel

    @classmethod
    def processor(cls, spec: ClipSpec) -> CLIPImageProcessorPil:
        """The checkpoint's processor, else CLIP's own: resize the shortest edge, crop the centre."""
        settings = spec.preprocessor()
        if settings is None:
            size, _ = spec.view_size()
            return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=size)
        return CLIPImageProcessorPil.from_dict(settings)
