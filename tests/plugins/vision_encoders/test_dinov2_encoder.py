"""DINOv2, with and without registers, against transformers' own models and processor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from lensmith import Loading
from lensmith_plugins.vision_encoders.dinov2 import Dinov2Encoder
from lensmith_plugins.vision_encoders.dinov2_shape import DEFAULTS, PLAIN, REGISTERS
from lensmith_plugins.vision_encoders.specs import Dinov2Spec

Checkpoints = Callable[..., Path]
MODELS = {PLAIN: Dinov2Model, REGISTERS: Dinov2WithRegistersModel}
PREFIX = {PLAIN: 1, REGISTERS: 5}
META = {  # the file of the released checkpoints
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
}


@torch.no_grad()
def encode(spec: Dinov2Spec, pixels: torch.Tensor) -> torch.Tensor:
    return Dinov2Encoder.build(spec, Loading()).eval()(pixels)


@torch.no_grad()
def plain(family: str, folder: Path, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    model = MODELS[family].from_pretrained(folder).eval()
    return tuple(model(pixel_values=pixels, output_hidden_states=True).hidden_states)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("layer", [-4, -2, -1, 0, 1, 3])
def test_features_are_the_patches_of_the_hidden_state(checkpoints: Checkpoints, family: str, layer: int) -> None:
    folder, pixels = checkpoints(family), torch.randn(2, 3, 28, 28)
    hidden = plain(family, folder, pixels)[layer]
    spec = Dinov2Spec(checkpoint=str(folder), select_layer=layer)
    patches = hidden[:, PREFIX[family] :]
    torch.testing.assert_close(encode(spec, pixels), patches, rtol=0, atol=0)
    kept = encode(spec.model_copy(update={"cls_token": True}), pixels)
    torch.testing.assert_close(kept, torch.cat([hidden[:, :1], patches], dim=1), rtol=0, atol=0)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("size", [14, 56, 75])
def test_positions_are_interpolated_to_another_size(checkpoints: Checkpoints, family: str, size: int) -> None:
    folder, pixels = checkpoints(family), torch.randn(1, 3, size, size)
    spec = Dinov2Spec(checkpoint=str(folder), image_size=size)
    hidden = plain(family, folder, pixels)[-2]
    assert spec.shape().grid == (size // 14, size // 14)
    torch.testing.assert_close(encode(spec, pixels), hidden[:, PREFIX[family] :], rtol=0, atol=0)


def test_the_gated_mlp_of_the_giant(checkpoints: Checkpoints) -> None:
    folder, pixels = checkpoints(PLAIN, use_swiglu_ffn=True, hidden_size=40), torch.randn(1, 3, 28, 28)
    hidden = plain(PLAIN, folder, pixels)[-2]
    torch.testing.assert_close(encode(Dinov2Spec(checkpoint=str(folder)), pixels), hidden[:, 1:], rtol=0, atol=0)


@pytest.mark.parametrize("family", MODELS)
def test_the_names_of_the_released_checkpoints_load(checkpoints: Checkpoints, tmp_path: Path, family: str) -> None:
    """They were written by transformers 4."""
    old = {
        ".attention.q_proj.": ".attention.attention.query.",
        ".attention.k_proj.": ".attention.attention.key.",
        ".attention.v_proj.": ".attention.attention.value.",
        ".attention.o_proj.": ".attention.output.dense.",
    }
    model = MODELS[family].from_pretrained(checkpoints(family))
    weights = {}
    for name, tensor in model.state_dict().items():
        for new, before in old.items():
            name = name.replace(new, before)
        weights[name] = tensor
    assert any("attention.attention.query" in name for name in weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((checkpoints(family) / "config.json").read_text())
    pixels = torch.randn(1, 3, 28, 28)
    expected = encode(Dinov2Spec(checkpoint=str(checkpoints(family))), pixels)
    torch.testing.assert_close(encode(Dinov2Spec(checkpoint=str(tmp_path)), pixels), expected, rtol=0, atol=0)
    lost = next(name for name in weights if "layer.1.attention.attention.query" in name)
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"DINOv2 vision model are missing: encoder\.layer\.1\.attention\.q_proj"):
        encode(Dinov2Spec(checkpoint=str(tmp_path)), pixels)


def test_pixels_are_transformers_own(checkpoints: Checkpoints, pictures: list[Image.Image]) -> None:
    spec = Dinov2Spec(checkpoint=str(checkpoints(PLAIN, META, image_size=518)))
    assert (spec.shape().image_size, spec.shape().grid) == ((224, 224), (16, 16))
    preprocessing, own = Dinov2Encoder.preprocessing(spec), BitImageProcessorPil.from_dict(META)
    for picture in (p for p in pictures if p.height <= p.width):  # tall ones: test_pil_versions.py
        pixels = preprocessing(picture)
        assert pixels.shape == (3, 224, 224)
        assert torch.equal(pixels, own(picture, return_tensors="pt")["pixel_values"][0])
    assert preprocessing.background == (123, 116, 103)


def test_an_image_size_keeps_the_whole_square(checkpoints: Checkpoints, pictures: list[Image.Image]) -> None:
    spec = Dinov2Spec(checkpoint=str(checkpoints(PLAIN, META, image_size=518)), image_size=70)
    assert spec.shape().grid == (5, 5)
    preprocessing = Dinov2Encoder.preprocessing(spec)
    own = BitImageProcessorPil.from_dict({**META, "size": {"shortest_edge": 70}, "crop_size": 70})
    for picture in (p for p in pictures if p.height <= p.width):  # tall ones: test_pil_versions.py
        assert torch.equal(preprocessing(picture), own(picture, return_tensors="pt")["pixel_values"][0])
    framed = Image.new("RGB", (70, 70), (255, 255, 255))
    framed.paste((0, 0, 0), (1, 1, 69, 69))
    pixels = preprocessing(framed)
    assert pixels[:, 0].min() > 2
    assert pixels[:, 1:-1, 1:-1].max() < -1.7


def test_without_a_file_pictures_are_of_the_configs_size(checkpoints: Checkpoints) -> None:
    spec = Dinov2Spec(checkpoint=str(checkpoints(PLAIN)))
    assert spec.shape().image_size == (28, 28)
    preprocessing = Dinov2Encoder.preprocessing(spec)
    assert preprocessing.background == (123, 116, 103)
    assert preprocessing(Image.new("RGB", (60, 31))).shape == (3, 28, 28)


@pytest.mark.parametrize("family", MODELS)
def test_a_saved_encoder_is_read_by_transformers_too(checkpoints: Checkpoints, tmp_path: Path, family: str) -> None:
    spec = Dinov2Spec(checkpoint=str(checkpoints(family, META)), image_size=42)
    encoder, pixels = Dinov2Encoder.build(spec, Loading()).eval(), torch.randn(1, 3, 42, 42)
    encoder.save(tmp_path)
    assert not any("mask_token" in name for name in load_file(tmp_path / "model.safetensors"))
    hidden = plain(family, tmp_path, pixels)[-2]
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels), hidden[:, PREFIX[family] :], rtol=0, atol=0)
    assert spec.relocated(tmp_path).shape() == spec.shape()


def test_defaults_are_those_of_transformers() -> None:
    for config in (Dinov2Config(), Dinov2WithRegistersConfig()):
        defaults = DEFAULTS[config.model_type]
        assert {name: getattr(config, name) for name in defaults} == defaults


@pytest.mark.parametrize(
    ("files", "fields", "message"),
    [
        (
            {"config.json": {"model_type": "vit"}},
            {},
            "'vit' model; the dinov2 encoder reads dinov2 and dinov2_with_reg",
        ),
        ({"config.json": {}}, {"image_size": 13}, "views of 13 x 13 pixels hold no patch of 14"),
        (
            {"config.json": {}, "preprocessor_config.json": {"do_center_crop": False, "size": {"shortest_edge": 9}}},
            {},
            "no fixed size .* give image_size",
        ),
        (
            {"config.json": {"num_hidden_layers": 2}},
            {"select_layer": 3},
            "select_layer 3 .* 2 layers; it may be -3 to 2",
        ),
    ],
)
def test_mistakes(tmp_path: Path, files: dict[str, Any], fields: dict[str, Any], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Dinov2Spec(config=tmp_path, **fields).shape()


def test_a_hub_id_whose_file_is_not_here_asks_for_the_size(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    spec = Dinov2Spec(checkpoint="nobody/nothing", config=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json.* without that file, give image_size"):
        spec.shape()
    assert spec.model_copy(update={"image_size": 28}).shape().grid == (2, 2)
