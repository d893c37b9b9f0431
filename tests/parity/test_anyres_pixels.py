"""Pixels of the original's anyres pictures, bit for bit, through the picture pipeline."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from lensmith import ConnectorShape, VisionShape
from lensmith.data.sample import PicturePipeline
from lensmith.spec.pictures import PicturePolicy
from lensmith_plugins.image_splitters.specs import AnyresSpec
from lensmith_plugins.image_splitters.tiled import AnyresSplitter, cut
from lensmith_plugins.vision_encoders.clip import ClipEncoder
from lensmith_plugins.vision_encoders.specs import ClipSpec


@pytest.fixture(scope="module")
def images(shared: Path) -> Path:
    return shared / "golden" / "images"


@pytest.fixture(scope="module")
def decoded(images: Path) -> dict[str, Tensor]:
    """The inputs after the original's `.convert("RGB")`: (H, W, 3) bytes."""
    return load_file(images / "inputs_rgb_uint8.safetensors")


def pipeline(images: Path, folder: Path, side: int, grids: Any) -> PicturePipeline:
    """Preparing pictures as a clip encoder of that size and anyres together do."""
    (folder / "config.json").write_text(json.dumps({"image_size": side, "patch_size": 14}))
    shutil.copy(images / f"proc_{side}" / "preprocessor_config.json", folder)
    cells = side // 14
    return PicturePipeline(
        policy=PicturePolicy(),
        splitter=AnyresSplitter,
        splitter_spec=AnyresSpec.model_validate({"grids": grids}),
        preprocessing=ClipEncoder.preprocessing(ClipSpec(config=folder)),
        encoder=VisionShape(image_size=(side, side), grid=(cells, cells), width=8),
        connector=ConnectorShape(tokens=cells * cells, width=8, grid=(cells, cells)),
    )


@pytest.mark.parametrize("side", [56, 224, 336])
def test_pixels_are_the_originals(images: Path, decoded: dict[str, Tensor], tmp_path: Path, side: int) -> None:
    meta = json.loads((images / "meta.json").read_text())
    prepare = pipeline(images, tmp_path, side, meta["grids"][str(side)]).prepare
    stored = load_file(images / "pixel_values_anyres56.safetensors") if side == 56 else {}
    records = [r for r in meta["records"] if (r["size"], r["mode"]) == (side, "anyres") and "error" not in r]
    assert len(records) >= 10
    for record in records:
        picture = prepare(Image.fromarray(decoded[record["image"]].numpy()))
        assert list(picture.pixels.shape) == record["shape"], record["image"]
        assert [*reversed(picture.layout.canvas)] == record["best_resolution"], record["image"]
        if f"anyres/{record['image']}" in stored:
            assert torch.equal(picture.pixels, stored[f"anyres/{record['image']}"])
        content = picture.pixels.contiguous().numpy().tobytes()
        assert hashlib.sha256(content).hexdigest() == record["sha256"], record["image"]


def test_canvases_are_cut_row_by_row_and_filled_up_with_black(shared: Path) -> None:
    for record in json.loads((shared / "golden/anyres/anyres.json").read_text())["divide_to_patches"]:
        (width, height), side = record["wh"], record["patch"]
        spec = AnyresSpec.model_validate({"grids": [record["wh"]], "merge": "flat"})
        encoder = VisionShape(image_size=(side, side), grid=(4, 4), width=8)
        layout = spec.layout((height, width), encoder, ConnectorShape(tokens=16, width=8, grid=(4, 4)))
        ramp = Image.new("RGB", (width, height))
        ramp.putdata([(x, y, 200) for y in range(height) for x in range(width)])
        _, *views = AnyresSplitter.split(spec, ramp, layout, (1, 2, 3))
        assert [view.tobytes() for view in views] == [view.tobytes() for view in cut(ramp, layout)]
        assert [list(view.size) for view in views] == record["sizes"]
        assert [list(view.getpixel((0, 0))) for view in views] == record["first_pixel"]
        assert [list(view.getpixel((side - 1, side - 1))) for view in views] == record["last_pixel"]
        assert len(views) == record["n"] == layout.views - 1
