"""CLIP against recorded results of the original LLaVA code."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lensmith import Loading, TileLayout
from lensmith_plugins.image_splitters.single_view import PadSplitter, SquareSplitter
from lensmith_plugins.image_splitters.specs import PadSpec, SquareSpec
from lensmith_plugins.vision_encoders.clip import ClipEncoder
from lensmith_plugins.vision_encoders.specs import ClipSpec

SHARED = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[3].parent / "shared"))
IMAGES, MODEL = SHARED / "golden" / "images", SHARED / "golden" / "model"
TOWER = "model.vision_tower.vision_tower.vision_model."

pytestmark = pytest.mark.skipif(not IMAGES.is_dir(), reason=f"no recorded results under {SHARED} (LENSMITH_SHARED)")


@pytest.mark.parametrize("size", [56, 224, 336])
@pytest.mark.parametrize("mode", ["square", "pad"])
def test_pixels_are_bit_exact(tmp_path: Path, mode: str, size: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"image_size": size, "patch_size": 14}))
    shutil.copy(IMAGES / f"proc_{size}" / "preprocessor_config.json", tmp_path)
    preprocessing = ClipEncoder.preprocessing(ClipSpec(config=tmp_path))
    spec, splitter = (PadSpec(), PadSplitter) if mode == "pad" else (SquareSpec(), SquareSplitter)
    pictures = load_file(IMAGES / "inputs_rgb_uint8.safetensors")
    stored = load_file(IMAGES / "pixel_values_square_pad.safetensors")
    records = json.loads((IMAGES / "meta.json").read_text())["records"]
    checked = 0
    for record in records:
        if (record["size"], record["mode"]) != (size, mode):
            continue
        picture = Image.fromarray(pictures[record["image"]].numpy())
        layout = TileLayout(1, 16, (picture.height, picture.width), (size, size))
        (view,) = splitter.split(spec, picture, layout, preprocessing.background)
        pixels = preprocessing(view)
        assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == record["sha256"], record["image"]
        name = f"{mode}/{record['image']}" if size == 56 else f"s{size}/{mode}/{record['image']}"
        if name in stored:
            assert torch.equal(pixels, stored[name])
        checked += 1
    assert checked > 0


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tower")
    weights = load_file(MODEL / "weights_backbone.safetensors")
    vision = {name.removeprefix(TOWER): tensor for name, tensor in weights.items() if name.startswith(TOWER)}
    save_file({f"vision_model.{n}": t for n, t in vision.items()}, folder / "model.safetensors", {"format": "pt"})
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(MODEL / "tiny_clip" / name, folder)
    return folder


@torch.no_grad()
def encode(spec: ClipSpec, pixels: Tensor) -> Tensor:
    return ClipEncoder.build(spec, Loading()).eval()(pixels)


def test_projected_patch_features(tower: Path) -> None:
    """The recorded three pictures are two of the scenarios' and the zero picture of text-only rows."""
    inputs = load_file(MODEL / "inputs.safetensors")
    first, second = inputs["multi_image/images"][0], inputs["text_first_then_image/images"][1]
    pixels = torch.stack([first, second, torch.zeros_like(first)])
    features = encode(ClipSpec(checkpoint=str(tower)), pixels)
    mlp = load_file(MODEL / "mm_projector_mlp2x_gelu.safetensors")
    weights = [mlp[f"model.mm_projector.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    projected = F.linear(F.gelu(F.linear(features, *weights[:2])), *weights[2:])
    expected = load_file(MODEL / "outputs_mlp2x_gelu.safetensors")["vision/projected"]
    torch.testing.assert_close(projected, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("scenario", "spec"),
    [
        ("pad_right_mixed", {}),
        ("layer_minus1", {"select_layer": -1}),
        ("layer_1", {"select_layer": 1}),
        ("cls_patch", {"cls_token": True}),
    ],
)
def test_layers_and_class_token(tower: Path, scenario: str, spec: dict[str, int]) -> None:
    """Linear projections of the features lie, unchanged, where the placeholder was."""
    inputs, outputs = (load_file(MODEL / f"{name}.safetensors") for name in ("inputs", "outputs_linear"))
    linear = load_file(MODEL / "mm_projector_linear.safetensors")
    features = encode(ClipSpec(checkpoint=str(tower), **spec), inputs[f"{scenario}/images"])
    projected = F.linear(features, linear["model.mm_projector.weight"], linear["model.mm_projector.bias"])
    compared = 0
    picture = 0
    for row, ids in enumerate(inputs[f"{scenario}/input_ids"]):
        places = (ids == -200).nonzero().flatten().tolist()
        for count, place in enumerate(places):
            start = place + count * (projected.shape[1] - 1)
            found = outputs[f"{scenario}/out.inputs_embeds"][row, start : start + projected.shape[1]]
            torch.testing.assert_close(projected[picture], found, rtol=0, atol=2e-5)
            picture += 1
            compared += 1
        picture += not places  # a row without a placeholder has a dummy picture
    assert compared > 0
