"""SigLIP against transformers' own model and processor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from lensmith import Loading
from lensmith_plugins.vision_encoders.siglip import SiglipEncoder
from lensmith_plugins.vision_encoders.siglip_shape import DEFAULTS
from lensmith_plugins.vision_encoders.specs import SiglipSpec

Checkpoints = Callable[..., Path]
FILE = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 28, "width": 28}, "resample": 2}


@torch.no_grad()
def encode(spec: SiglipSpec, pixels: torch.Tensor) -> torch.Tensor:
    return SiglipEncoder.build(spec, Loading()).eval()(pixels)


@pytest.mark.parametrize("layer", [-4, -3, -2, -1, 0, 1, 2, 3])
def test_features_are_the_selected_hidden_state(checkpoints: Checkpoints, layer: int) -> None:
    folder, pixels = checkpoints("siglip"), torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        plain = SiglipVisionModel.from_pretrained(folder).eval()(pixel_values=pixels, output_hidden_states=True)
    features = encode(SiglipSpec(checkpoint=str(folder), select_layer=layer), pixels)
    torch.testing.assert_close(features, plain.hidden_states[layer], rtol=0, atol=0)


def test_the_vision_half_of_a_full_model_loads(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder, pixels = checkpoints("siglip"), torch.randn(2, 3, 28, 28)
    vision = SiglipVisionModel.from_pretrained(folder)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = SiglipModel(SiglipConfig(vision_config=vision.config.to_dict(), text_config={**text, "vocab_size": 50}))
    whole.vision_model.load_state_dict(vision.state_dict())
    whole.save_pretrained(tmp_path)
    features = encode(SiglipSpec(checkpoint=str(tmp_path)), pixels)
    torch.testing.assert_close(features, encode(SiglipSpec(checkpoint=str(folder)), pixels), rtol=0, atol=0)


@pytest.mark.parametrize("preprocessor", [None, FILE], ids=["defaults", "bilinear file"])
def test_pixels_are_transformers_own(
    checkpoints: Checkpoints, pictures: list[Image.Image], preprocessor: dict[str, Any] | None
) -> None:
    preprocessing = SiglipEncoder.preprocessing(SiglipSpec(checkpoint=str(checkpoints("siglip", preprocessor))))
    settings = preprocessor or {"size": {"height": 28, "width": 28}, "resample": 3}
    plain = SiglipImageProcessorPil(**{name: settings[name] for name in ("size", "resample")})
    for picture in (p for p in pictures if p.height <= p.width):  # tall ones: test_pil_versions.py
        pixels = preprocessing(picture)
        assert pixels.shape == (3, 28, 28)
        assert torch.equal(pixels, plain(picture, return_tensors="pt")["pixel_values"][0])
    assert preprocessing.background == (127, 127, 127)


def test_the_whole_picture_is_squashed(checkpoints: Checkpoints) -> None:
    preprocessing = SiglipEncoder.preprocessing(SiglipSpec(checkpoint=str(checkpoints("siglip"))))
    picture = Image.new("RGB", (280, 28))
    picture.paste((255, 255, 255), (0, 0, 140, 28))
    pixels = preprocessing(picture)
    assert pixels[:, :, :12].min() == 1.0
    assert pixels[:, :, 16:].max() == -1.0


def test_a_saved_encoder_is_read_by_transformers_too(checkpoints: Checkpoints, tmp_path: Path) -> None:
    pixels = torch.randn(1, 3, 28, 28)
    encoder = SiglipEncoder.build(SiglipSpec(checkpoint=str(checkpoints("siglip"))), Loading()).eval()
    encoder.save(tmp_path)
    plain = SiglipVisionModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        hidden = plain(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(encoder(pixels), hidden, rtol=0, atol=0)


def test_defaults_are_those_of_transformers() -> None:
    config = SiglipVisionConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


def test_the_published_sizes(tmp_path: Path) -> None:
    config = {
        "model_type": "siglip",
        "vision_config": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = SiglipSpec(config=tmp_path).shape()
    assert (shape.grid, shape.tokens, shape.width, shape.extra_tokens) == ((27, 27), 729, 1152, 0)
    # The published vision model has 428,225,600 parameters: one block, the final norm and the pooling are not built.
    block = 4 * (1152 * 1152 + 1152) + 2 * 1152 * 4304 + 4304 + 1152 + 4 * 1152
    pooling = 1152 + 4 * (1152 * 1152 + 1152) + 2 * 1152 + 2 * 1152 * 4304 + 4304 + 1152
    assert sum(tensor.numel for tensor in shape.parameters) == 428_225_600 - block - pooling - 2 * 1152


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "siglip2"}, r"NaFlex.*take a SigLIP 2 of one resolution"),
        ({"model_type": "clip"}, "of a 'clip' model; the siglip encoder reads siglip and siglip_vision_model"),
        ({"hidden_size": 50}, "hidden_size 50 is not a multiple"),
        ({"image_size": [28, 28]}, "image_size must be a whole number"),
    ],
)
def test_configs_that_cannot_work(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        SiglipSpec(config=tmp_path).shape()


def test_a_processor_of_another_size_is_refused(checkpoints: Checkpoints) -> None:
    folder = checkpoints("siglip", {"size": {"height": 32, "width": 28}})
    with pytest.raises(ValueError, match=r"32 x 28 pixels, but the encoder's config\.json says 28 x 28"):
        SiglipEncoder.preprocessing(SiglipSpec(checkpoint=str(folder)))
