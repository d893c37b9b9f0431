"""Closed forms of the vision transformers against the modules themselves, built on the meta device."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lensmith import Kind, Loading, VisionEncoderSpec, implementation
from lensmith_plugins.vision_encoders.blip2_spec import Blip2Spec
from lensmith_plugins.vision_encoders.open_clip_shape import packaged_config
from lensmith_plugins.vision_encoders.specs import Dinov2Spec, OpenClipSpec, SiglipSpec

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
GIANT = {"hidden_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 24, "use_swiglu_ffn": True}
CONFIGS: dict[str, tuple[type[VisionEncoderSpec], dict[str, Any], dict[str, Any]]] = {
    "siglip-base": (SiglipSpec, {"model_type": "siglip", "vision_config": {"num_hidden_layers": 2}}, {}),
    "siglip-odd": (SiglipSpec, {**SMALL, "intermediate_size": 50, "image_size": 30, "patch_size": 8}, {}),
    "dinov2-base": (Dinov2Spec, {"image_size": 518, "num_hidden_layers": 2}, {"image_size": 224}),
    "dinov2-native": (Dinov2Spec, {"image_size": 56, **SMALL}, {"cls_token": True}),
    "dinov2-giant": (Dinov2Spec, {**GIANT, "image_size": 518}, {"image_size": 224}),
    "dinov2-no-bias": (Dinov2Spec, {**SMALL, "qkv_bias": False}, {"image_size": 384}),
    "blip2-giant": (Blip2Spec, {"model_type": "blip-2", "vision_config": {"num_hidden_layers": 2}}, {}),
    "blip2-patches": (Blip2Spec, {"model_type": "blip_2_vision_model", **SMALL}, {"cls_token": False}),
    "registers": (Dinov2Spec, {"model_type": "dinov2_with_registers", **SMALL}, {"image_size": 99, "cls_token": True}),
}
VITS = sorted(
    file.stem
    for file in (Path(importlib.util.find_spec("open_clip").origin).parent / "model_configs").glob("*.json")  # type: ignore[union-attr, arg-type]
    if not json.loads(file.read_text())["vision_cfg"].get("timm_model_name")
    and isinstance(json.loads(file.read_text())["vision_cfg"]["layers"], int)
)


def assert_is_the_module(spec: VisionEncoderSpec) -> None:
    shape, encoder_class = spec.shape(), implementation(Kind.VISION_ENCODER, spec)
    assert shape is not None
    with torch.device("meta"):
        encoder = encoder_class.build(spec, Loading(weights=False))
        with FlopCounterMode(display=False) as counter:
            features = encoder(torch.zeros(2, shape.channels, *shape.image_size))
    assert encoder_class.measure(spec) == shape  # every name, shape and linear flag, in order
    assert features.shape == (2, shape.tokens, shape.width)
    assert counter.get_total_flops() == 2 * shape.flops_per_view
    assert shape.tokens == shape.grid[0] * shape.grid[1] + shape.extra_tokens


@pytest.mark.parametrize("select_layer", [-2, -1, 0])
@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_models(tmp_path: Path, name: str, select_layer: int) -> None:
    spec, config, fields = CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_is_the_module(spec(config=tmp_path, select_layer=select_layer, **fields))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("model", "select_layer"),
    [("ViT-S-16-alt", -2), ("ViT-M-16-alt", 2), ("ViT-L-14-CLIPA-336", 1), ("coca_ViT-B-32", 0), ("ViT-bigG-14", 1)],
)
def test_open_clip_models(model: str, select_layer: int) -> None:
    assert_is_the_module(OpenClipSpec(model=model, select_layer=select_layer, cls_token=select_layer == 0))


def test_every_transformer_of_open_clip_has_a_closed_form() -> None:
    assert len(VITS) > 50
    for model in VITS:
        shape = OpenClipSpec(model=model).shape()
        config = packaged_config(model)["vision_cfg"]
        assert (shape.width, shape.grid[0]) == (config["width"], config["image_size"] // config["patch_size"])


def test_frozen_numbers_of_a_published_model() -> None:
    """ViT-L-14's image tower has 303,966,208 parameters; a block, the final norm and the projection are not built."""
    shape = OpenClipSpec(model="ViT-L-14", select_layer=-1).shape()
    assert sum(tensor.numel for tensor in shape.parameters) == 303_966_208 - 2 * 1024 - 1024 * 768
    assert (shape.grid, shape.width) == ((16, 16), 1024)
