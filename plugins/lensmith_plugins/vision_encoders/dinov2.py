"""DINOv2's vision transformer through transformers."""

from __future__ import annotations

from typing import Any

from transformers import (
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from lensmith import VisionShape
from lensmith_plugins.vision_encoders import dinov2_shape
from lensmith_plugins.vision_encoders.transformers_specs import Dinov2Spec
from lensmith_plugins.vision_encoders.transformers_vit import TransformersEncoder

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet


class Dinov2Encoder(TransformersEncoder):
    """A DINOv2 model (Oquab et al. 2023, arXiv 2304.07193), or one with registers (Darcet et al. 2023, 2309.16588)."""

    title = "DINOv2"
    final_norm = "layernorm"

    def __init__(self, spec: Dinov2Spec, network: Any, shape: VisionShape) -> None:
        super().__init__(spec, network, shape)
        self.prefix = dinov2_shape.prefix_tokens(spec.architecture())

    @classmethod
    def classes(cls, architecture: dict[str, Any]) -> tuple[Any, Any]:
        """Config and model class of transformers."""
        if architecture["model_type"] == dinov2_shape.REGISTERS:
            return Dinov2WithRegistersConfig, Dinov2WithRegistersModel
        return Dinov2Config, Dinov2Model

    @classmethod
    def unused(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        """No mask token, where the config has a say in it."""
        return {} if architecture["model_type"] == dinov2_shape.REGISTERS else {"use_mask_token": False}

    @classmethod
    def trim(cls, network: Any) -> None:
        """Take out the mask token, which only pretraining uses."""
        network.embeddings.mask_token = None

    @classmethod
    def processor(cls, spec: Dinov2Spec) -> BitImageProcessorPil:
        """The checkpoint's processor, at the spec's image size where it gives one."""
        settings = spec.preprocessor()
        if settings is None:
            settings = {"image_mean": _MEAN, "image_std": _STD}
        elif spec.image_size is None:
            return BitImageProcessorPil.from_dict(settings)
        height, width = spec.view_size()
        return BitImageProcessorPil.from_dict(
            {
                **settings,
                "do_resize": True,
                "size": {"shortest_edge": min(height, width)},
                "do_center_crop": True,
                "crop_size": {"height": height, "width": width},
            }
        )
