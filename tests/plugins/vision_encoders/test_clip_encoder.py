"""The CLIP encoder on tiny real models, written by transformers itself."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from lensmith import Loading
from lensmith_plugins.vision_encoders.clip import ClipEncoder
from lensmith_plugins.vision_encoders.specs import ClipSpec

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 16,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "projection_dim": 16,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**SIZES)).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def reference(folder: Path, pixels: Tensor) -> tuple[Tensor, ...]:
    model = CLIPVisionModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return tuple(model(pixel_values=pixels, output_hidden_states=True).hidden_states)


@torch.no_grad()
def encode(spec: ClipSpec, pixels: Tensor) -> Tensor:
    return ClipEncoder.build(spec, Loading()).eval()(pixels)


@pytest.mark.parametrize("layer", [-4, -3, -2, -1, 0, 1, 2, 3])
def test_features_are_the_selected_hidden_state(folder: Path, pixels: Tensor, layer: int) -> None:
    hidden = reference(folder, pixels)[layer]
    spec = ClipSpec(checkpoint=str(folder), select_layer=layer)
    torch.testing.assert_close(encode(spec, pixels), hidden[:, 1:], rtol=0, atol=0)
    torch.testing.assert_close(encode(spec.model_copy(update={"cls_token": True}), pixels), hidden, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["projection", "full", "old"])
def test_every_layout_of_clip_weights_loads(folder: Path, tmp_path: Path, pixels: Tensor, kind: str) -> None:
    other = tmp_path / kind
    vision = CLIPVisionModel.from_pretrained(folder)
    if kind == "projection":
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES))
        model.vision_model.load_state_dict(vision.state_dict())
        model.save_pretrained(other)
    elif kind == "full":
        model = CLIPModel(CLIPConfig(vision_config=SIZES, text_config=TEXT, projection_dim=16))
        model.vision_model.load_state_dict(vision.state_dict())
        model.save_pretrained(other)
    else:  # transformers 4 wrote a vision model with a prefix, and the positions as a tensor
        other.mkdir()
        weights = {f"vision_model.{name}": tensor for name, tensor in vision.state_dict().items()}
        weights["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
        save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
        (other / "config.json").write_text((folder / "config.json").read_text())
    expected = encode(ClipSpec(checkpoint=str(folder)), pixels)
    torch.testing.assert_close(encode(ClipSpec(checkpoint=str(other)), pixels), expected, rtol=0, atol=0)


def test_blocks_past_the_layer_are_not_built_and_every_tensor_gets_a_gradient(folder: Path, pixels: Tensor) -> None:
    encoder = ClipEncoder.build(ClipSpec(checkpoint=str(folder)), Loading())
    assert len(encoder.network.encoder.layers) == 2
    encoder(pixels).square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_missing_tensors_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    lost = [name for name in weights if "layers.1.mlp.fc1" in name]
    save_file({n: t for n, t in weights.items() if n not in lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"are missing: encoder\.layers\.1\.mlp\.fc1\.bias, .*fc1\.weight$"):
        ClipEncoder.build(ClipSpec(checkpoint=str(folder)), Loading())
    ClipEncoder.build(ClipSpec(checkpoint=str(folder), select_layer=1), Loading())  # that layer does not need them


def test_weights_of_another_size_are_named(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**SIZES, "intermediate_size": 64}))
    with pytest.raises(ValueError, match=r"do not fit the config: .*\.0\.mlp\.fc1\.bias \(48,\) for \(64,\)"):
        ClipEncoder.build(ClipSpec(checkpoint=str(folder)), Loading())


def test_a_checkpoint_that_is_no_folder_is_told(folder: Path) -> None:
    config = folder / "config.json"
    for wrong in (folder / "gone", folder / "model.safetensors"):
        with pytest.raises(FileNotFoundError, match=r"does not exist|is not a folder with CLIP weights"):
            ClipEncoder.build(ClipSpec(checkpoint=str(wrong), config=config), Loading())


def test_a_truncated_file_is_told(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="its weights cannot be read"):
        ClipEncoder.build(ClipSpec(checkpoint=str(folder)), Loading())


def test_dtype_and_structure_follow_the_loading(folder: Path, pixels: Tensor) -> None:
    spec = ClipSpec(checkpoint=str(folder))
    half = ClipEncoder.build(spec, Loading(dtype=torch.bfloat16))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half(pixels).dtype == torch.bfloat16
    (folder / "model.safetensors").unlink()
    bare = ClipEncoder.build(spec, Loading(dtype=torch.bfloat16, weights=False))
    assert {parameter.dtype for parameter in bare.parameters()} == {torch.bfloat16}
    with pytest.raises(OSError, match=r"model\.safetensors"):
        ClipEncoder.build(spec, Loading())


@pytest.mark.parametrize("layer", [-2, 1, 0])
def test_a_saved_encoder_loads_again_with_the_same_spec(
    folder: Path, tmp_path: Path, pixels: Tensor, layer: int
) -> None:
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28, image_mean=[0.1, 0.2, 0.3]).save_pretrained(folder)
    spec = ClipSpec(checkpoint=str(folder), select_layer=layer)
    encoder = ClipEncoder.build(spec, Loading()).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.01)
        expected = encoder(pixels)
    saved = tmp_path / "saved"
    encoder.save(saved)
    again = spec.relocated(saved)
    assert again == ClipSpec(checkpoint=str(saved), select_layer=layer)
    assert again.shape() == spec.shape()
    torch.testing.assert_close(encode(again, pixels), expected, rtol=0, atol=0)
    assert ClipEncoder.preprocessing(again).background == (25, 51, 76)
    # Plain transformers reads the same hidden state from it.
    torch.testing.assert_close(reference(saved, pixels)[layer][:, 1:], expected, rtol=0, atol=0)


def test_where_weights_come_from(folder: Path) -> None:
    random, ours = ClipSpec(config=folder), ClipSpec(checkpoint=str(folder), config=folder / "config.json")
    assert (random.fresh(), ours.fresh()) == (True, False)
    assert random.sources() == {"config": str(folder)}
    assert ours.sources() == {"checkpoint": str(folder), "config": str(folder / "config.json")}
    assert random.relocated(folder) == ClipSpec(checkpoint=str(folder))


def test_gathered_weights_are_saved_and_must_be_whole(folder: Path, tmp_path: Path, pixels: Tensor) -> None:
    spec = ClipSpec(checkpoint=str(folder))
    encoder = ClipEncoder.build(spec, Loading())
    state = {name: torch.full_like(tensor, 0.25) for name, tensor in encoder.named_parameters()}
    encoder.save(tmp_path / "saved", state)
    loaded = ClipEncoder.build(ClipSpec(checkpoint=str(tmp_path / "saved")), Loading())
    assert all((parameter == 0.25).all() for parameter in loaded.parameters())
    del state["network.pre_layrnorm.bias"]
    with pytest.raises(ValueError, match=r"lack pre_layrnorm\.bias$"):
        encoder.save(tmp_path / "other", state)


def test_a_frozen_encoder_stays_in_evaluation_mode(folder: Path) -> None:
    encoder = ClipEncoder.build(ClipSpec(checkpoint=str(folder)), Loading())
    assert encoder.train().training
    encoder.requires_grad_(False)
    assert not any(module.training for module in encoder.train().modules())
    next(encoder.parameters()).requires_grad_(True)
    assert encoder.train().network.encoder.training


def test_preprocessing_without_a_file_is_clips(folder: Path) -> None:
    preprocessing = ClipEncoder.preprocessing(ClipSpec(checkpoint=str(folder)))
    assert preprocessing.background == (122, 116, 104)
    wide = Image.new("RGB", (60, 30), preprocessing.background)
    pixels = preprocessing(wide)
    assert (pixels.shape, pixels.dtype) == ((3, 28, 28), torch.float32)
    assert pixels.abs().max() < 0.02
    again = pickle.loads(pickle.dumps(preprocessing))
    assert torch.equal(again(wide), pixels)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 40), (4, 1)])
def test_the_smallest_pictures_are_pictures(folder: Path, size: tuple[int, int]) -> None:
    preprocessing = ClipEncoder.preprocessing(ClipSpec(checkpoint=str(folder)))
    pixels = preprocessing(Image.new("RGB", size, (255, 0, 0)))
    assert pixels.shape == (3, 28, 28)
    assert pixels[0].min() > 1.9  # red, whatever axis the processor might take for the channels
    assert pixels[1:].max() < -1.4


def test_preprocessing_is_the_checkpoints(folder: Path, tmp_path: Path) -> None:
    old = {"size": 28, "crop_size": 28, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    preprocessing = ClipEncoder.preprocessing(ClipSpec(checkpoint=str(folder)))
    assert preprocessing.background == (127, 127, 127)
    assert preprocessing(Image.new("RGB", (50, 28), (255, 255, 255))).unique().tolist() == [1.0]
    # A config's own neighbour serves where the checkpoint is not on disk, or there is none.
    for spec in (ClipSpec(config=folder), ClipSpec(checkpoint="owner/clip", config=folder / "config.json")):
        assert ClipEncoder.preprocessing(spec).background == (127, 127, 127)
    (folder / "preprocessor_config.json").rename(folder / "other.json")
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": old}))
    assert ClipEncoder.preprocessing(ClipSpec(config=folder)).background == (127, 127, 127)


def test_preprocessing_of_another_size_is_refused(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 32, "crop_size": 32}))
    with pytest.raises(ValueError, match=r"32 x 32 pixels, but the encoder's config\.json says 28 x 28"):
        ClipEncoder.preprocessing(ClipSpec(checkpoint=str(folder)))
