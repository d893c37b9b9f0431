"""Vision encoders: CLIP's vision transformer, and any timm model with feature maps."""

from __future__ import annotations

from lensmith import Component, Kind, hookimpl
from lensmith_plugins.vision_encoders.specs import ClipSpec, TimmSpec

__all__ = ["ClipSpec", "TimmSpec", "api_version", "lensmith_components"]

api_version = 1


@hookimpl
def lensmith_components() -> list[Component]:
    """The vision encoders of this package."""
    return [
        Component(
            kind=Kind.VISION_ENCODER,
            name="clip",
            spec=ClipSpec,
            implementation="lensmith_plugins.vision_encoders.clip:ClipEncoder",
            summary="CLIP's vision transformer, patch features of one layer (LLaVA's vision tower)",
        ),
        Component(
            kind=Kind.VISION_ENCODER,
            name="timm",
            spec=TimmSpec,
            implementation="lensmith_plugins.vision_encoders.timm_features:TimmEncoder",
            summary="feature maps of any timm model, convolutional or transformer, one or more levels",
        ),
    ]
