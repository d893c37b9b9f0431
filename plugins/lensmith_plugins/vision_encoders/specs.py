"""The specs of the vision encoders in one place. No torch here."""

from __future__ import annotations

from lensmith_plugins.vision_encoders.fused_spec import FusedSpec
from lensmith_plugins.vision_encoders.open_clip_spec import OpenClipSpec
from lensmith_plugins.vision_encoders.timm_spec import TimmSpec
from lensmith_plugins.vision_encoders.transformers_specs import ClipSpec, Dinov2Spec, SiglipSpec

__all__ = ["ClipSpec", "Dinov2Spec", "FusedSpec", "OpenClipSpec", "SiglipSpec", "TimmSpec"]
