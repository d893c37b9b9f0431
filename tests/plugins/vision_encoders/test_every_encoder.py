"""What every vision encoder keeps to, ours by name, so that a new one is added here."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lensmith import (
    Kind,
    Loading,
    VisionEncoder,
    VisionEncoderSpec,
    assemble,
    discover,
    implementation,
    parameter_shapes,
)
from lensmith.spec.build import installed, part_class

Checkpoints = Callable[..., Path]
NAMES = [c.name for c in discover().components(Kind.VISION_ENCODER) if c.distribution == "lensmith"]


@pytest.fixture(params=NAMES)
def fields(request: pytest.FixtureRequest, checkpoints: Checkpoints) -> dict[str, Any]:
    """The fields of a tiny encoder with weights on disk (timm: random ones)."""
    name = request.param
    if name == "blip2":  # whose own default runs all blocks
        return {"name": name, "checkpoint": str(checkpoints(name)), "select_layer": -2}
    if name in ("clip", "siglip", "open_clip"):
        return {"name": name, "checkpoint": str(checkpoints(name))}
    if name == "dinov2":
        return {"name": name, "checkpoint": str(checkpoints("dinov2_with_registers")), "image_size": 42}
    if name == "timm":
        return {"name": name, "model": "test_vit2", "levels": [0, -2], "image_size": 64}
    assert name == "fused"
    siglip = {"name": "siglip", "checkpoint": str(checkpoints("siglip"))}
    return {"name": name, "encoders": [{"name": "clip", "checkpoint": str(checkpoints("clip"))}, siglip]}


@pytest.fixture
def spec(fields: dict[str, Any]) -> VisionEncoderSpec:
    made = part_class(Kind.VISION_ENCODER, fields["name"], installed()).model_validate(fields)
    assert isinstance(made, VisionEncoderSpec)
    return made


def build(spec: VisionEncoderSpec, dtype: torch.dtype = torch.float32) -> VisionEncoder:
    torch.manual_seed(0)
    encoder = implementation(Kind.VISION_ENCODER, spec).build(spec, Loading(dtype))
    assert isinstance(encoder, VisionEncoder)
    return encoder


def test_its_shape_is_what_is_built(spec: VisionEncoderSpec) -> None:
    encoder = build(spec)
    assert encoder.shape.parameters == parameter_shapes(encoder)
    assert encoder.shape == (spec.shape() or type(encoder).measure(spec))
    pixels = torch.randn(2, encoder.shape.channels, *encoder.shape.image_size)
    assert encoder(pixels).shape == (2, encoder.shape.tokens, encoder.shape.width)


def test_nothing_is_built_that_the_features_do_not_need(spec: VisionEncoderSpec) -> None:
    """No block past the selected layer, no final norm, no pooling: each would have no gradient."""
    encoder = build(spec)
    pixels = torch.randn(1, encoder.shape.channels, *encoder.shape.image_size)
    encoder(pixels).square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
    numbers = {int(part) for name, _ in encoder.named_parameters() for part in name.split(".")[2:] if part.isdigit()}
    assert max(numbers) < {"timm": 7}.get(getattr(spec, "name", ""), 2)  # of three blocks; of test_vit2's eight


def test_pictures_become_its_pixels(spec: VisionEncoderSpec, pictures: list[Image.Image]) -> None:
    encoder = build(spec)
    preprocessing = pickle.loads(pickle.dumps(type(encoder).preprocessing(spec)))
    for picture in pictures:
        pixels = preprocessing(picture)
        assert (pixels.shape, pixels.dtype) == (
            (encoder.shape.channels, *encoder.shape.image_size),
            torch.float32,
        )
    blank = preprocessing(Image.new("RGB", (50, 40), preprocessing.background))[:3]
    assert blank.abs().max() < 0.02


def test_a_frozen_one_runs_without_autograd(fields: dict[str, Any], tiny_language_model: Path) -> None:
    parts = {"image_splitter": "pad", "connector": "linear", "conversation": "chatml"}
    language_model = {"name": "llama", "checkpoint": str(tiny_language_model)}
    model = assemble({"model": {**parts, "vision_encoder": fields, "language_model": language_model}})
    recorded: list[bool] = []
    model.vision_encoder.register_forward_pre_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    shape = model.vision_encoder.shape
    pixels = torch.randn(1, shape.channels, *shape.image_size)
    model.vision_encoder.requires_grad_(False)
    model.train()
    assert not model.vision_encoder.training
    assert not model.encode(pixels).requires_grad
    model.vision_encoder.requires_grad_(True)
    assert model.encode(pixels).requires_grad
    assert recorded == [False, True]


def test_weights_come_in_the_type_that_is_asked_for(spec: VisionEncoderSpec) -> None:
    encoder = build(spec, torch.bfloat16)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.bfloat16}
    pixels = torch.randn(1, encoder.shape.channels, *encoder.shape.image_size, dtype=torch.bfloat16)
    assert encoder(pixels).dtype == torch.bfloat16


def test_a_trained_one_is_saved_and_read_again(spec: VisionEncoderSpec, tmp_path: Path) -> None:
    encoder = build(spec).eval()
    pixels = torch.randn(1, encoder.shape.channels, *encoder.shape.image_size)
    folder = tmp_path / "vision_encoder"
    folder.mkdir()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.01)
        encoder.save(folder)
        again = build(spec.relocated(folder)).eval()
        torch.testing.assert_close(again(pixels), encoder(pixels), rtol=0, atol=0)
    assert again.shape == encoder.shape
    picture = Image.new("RGB", (31, 57), (10, 100, 200))
    assert torch.equal(
        type(encoder).preprocessing(spec.relocated(folder))(picture), type(encoder).preprocessing(spec)(picture)
    )
