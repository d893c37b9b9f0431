"""SigLIP's vision transformer through transformers."""

from __future__ import annotations

from typing import Any

from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from lensmith_plugins.vision_encoders.transformers_specs import SiglipSpec
from lensmith_plugins.vision_encoders.transformers_vit import TransformersEncoder


class SiglipEncoder(TransformersEncoder):
    """A SigLIP model (Zhai et al. 2023, arXiv 2303.15343), or SigLIP 2 (Tschannen et al. 2025, arXiv 2502.14786)."""

    title = "SigLIP"
    final_norm = "post_layernorm"

    @classmethod
    def classes(cls, architecture: dict[str, Any]) -> tuple[Any, Any]:
        """Config and model class of transformers."""
        return SiglipVisionConfig, SiglipVisionModel

    @classmethod
    def unused(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        """No attention pooling."""
        return {"vision_use_head": False}

    @classmethod
    def processor(cls, spec: SiglipSpec) -> SiglipImageProcessorPil:
        """The checkpoint's processor, else SigLIP's own: resize to the exact square whatever the picture's shape."""
        settings = spec.preprocessor()
        if settings is None:
            height, width = spec.view_size()
            return SiglipImageProcessorPil(size={"height": height, "width": width})
        return SiglipImageProcessorPil.from_dict(settings)
