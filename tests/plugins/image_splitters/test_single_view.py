"""Square and pad: one view, exact geometry."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lensmith import ConnectorShape, TileLayout, VisionShape
from lensmith_plugins.image_splitters.single_view import PadSplitter, SquareSplitter
from lensmith_plugins.image_splitters.specs import PadSpec, SingleViewSpec, SquareSpec

META = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[3].parent / "shared")) / "golden/images/meta.json"
ENCODER = VisionShape(image_size=(28, 28), grid=(2, 2), width=8)
LAYOUT = TileLayout(1, 4, (5, 9), (28, 28))
RED, GREY = (255, 0, 0), (122, 116, 104)


@pytest.mark.parametrize("spec", [SquareSpec(), PadSpec()])
def test_layout_is_one_view_of_the_connectors_tokens(spec: SingleViewSpec) -> None:
    layout = spec.layout((5, 9), ENCODER, ConnectorShape(tokens=7, width=16, grid=None))
    assert layout == TileLayout(views=1, tokens=7, image_size=(5, 9), canvas=(28, 28), tiles=(1, 1))
    assert spec.parameters(16) == ()


@pytest.mark.parametrize(("spec", "splitter"), [(SquareSpec(), SquareSplitter), (PadSpec(), PadSplitter)])
def test_merge_is_the_views_tokens(spec: SingleViewSpec, splitter: type[SquareSplitter] | type[PadSplitter]) -> None:
    features = torch.randn(1, 4, 16)
    built = splitter.build(spec, 16)
    assert torch.equal(built.merge(features, LAYOUT), features[0])
    assert list(built.parameters()) == []


def test_square_hands_the_picture_on() -> None:
    picture = Image.new("RGB", (9, 5), RED)
    assert SquareSplitter.split(SquareSpec(), picture, LAYOUT, GREY) == [picture]


def geometry(size: tuple[int, int]) -> dict[str, Any]:
    (view,) = PadSplitter.split(PadSpec(), Image.new("RGB", size, RED), LAYOUT, GREY)
    colours = view.getcolors()
    mask = Image.eval(view.getchannel("R"), lambda value: value == 255 and 255)
    assert {colour for _, colour in colours} <= {RED, GREY}
    return {"wh": list(size), "out": list(view.size), "box_x0y0x1y1": list(mask.getbbox())}


def test_pad_centres_the_picture_and_leaves_odd_pixels_below_and_right() -> None:
    assert geometry((9, 4)) == {"wh": [9, 4], "out": [9, 9], "box_x0y0x1y1": [0, 2, 9, 6]}
    assert geometry((4, 9)) == {"wh": [4, 9], "out": [9, 9], "box_x0y0x1y1": [2, 0, 6, 9]}
    assert geometry((1, 1)) == {"wh": [1, 1], "out": [1, 1], "box_x0y0x1y1": [0, 0, 1, 1]}


@pytest.mark.skipif(not META.is_file(), reason=f"no recorded results at {META} (LENSMITH_SHARED)")
def test_pad_is_llavas() -> None:
    for record in json.loads(META.read_text())["expand2square"]:
        assert geometry(tuple(record["wh"])) == {name: record[name] for name in ("wh", "out", "box_x0y0x1y1")}


def test_pad_leaves_squares_alone_and_takes_a_colour() -> None:
    square = Image.new("RGB", (5, 5), RED)
    assert PadSplitter.split(PadSpec(), square, LAYOUT, GREY) == [square]
    spec = PadSpec.model_validate({"color": [0, 0, 0]})
    (view,) = PadSplitter.split(spec, Image.new("RGB", (3, 1), RED), LAYOUT, GREY)
    assert view.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("color", [(0, 0, 256), (-1, 0, 0), (0, 0)])
def test_a_colour_has_three_bytes(color: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="color"):
        PadSpec.model_validate({"color": color})
