"""Anyres and hd: counts, kept tokens, order and pixels, against slow ways of saying the same."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from PIL import Image

from lensmith import ConnectorShape, IncompatibleParts, Size, TileLayout, VisionShape
from lensmith_plugins.image_splitters.canvas import content_box
from lensmith_plugins.image_splitters.specs import AnyresSpec, HdSpec, TiledSpec
from lensmith_plugins.image_splitters.tiled import AnyresSplitter, HdSplitter, TiledSplitter

ENCODER = VisionShape(image_size=(28, 28), grid=(4, 4), width=8)
KEPT = ConnectorShape(tokens=16, width=3, grid=(4, 4))
POOLED = ConnectorShape(tokens=4, width=3, grid=(2, 2))
UNEVEN = ConnectorShape(tokens=15, width=3, grid=(3, 5))  # a patch is no whole number of pixels
RESAMPLED = ConnectorShape(tokens=7, width=3, grid=None)
GREY = (122, 116, 104)
SIZES: tuple[Size, ...] = ((28, 28), (30, 40), (1, 1), (1, 900), (900, 1), (57, 55), (100, 31), (56, 84), (5, 77))
STITCHING: tuple[TiledSpec, ...] = (
    AnyresSpec(merge="spatial"),
    AnyresSpec(),
    HdSpec(),
    HdSpec(max_tiles=9, global_view="none"),
)


def splitter_of(spec: TiledSpec) -> type[TiledSplitter]:
    return HdSplitter if isinstance(spec, HdSpec) else AnyresSplitter


def cases() -> Iterator[tuple[TiledSpec, ConnectorShape, Size]]:
    yield from itertools.product(STITCHING, (KEPT, POOLED, UNEVEN), SIZES)
    yield from itertools.product([AnyresSpec(merge="flat")], (KEPT, RESAMPLED), SIZES)
    yield from itertools.product([AnyresSpec(grids=[]), AnyresSpec(grids=[], merge="flat")], [RESAMPLED], SIZES)


def test_a_layout_is_what_split_and_merge_do() -> None:
    for spec, connector, size in cases():
        layout = spec.layout(size, ENCODER, connector)
        views = splitter_of(spec).split(spec, Image.new("RGB", (size[1], size[0])), layout, GREY)
        assert len(views) == layout.views
        features = torch.randn(layout.views, connector.tokens, 3)
        splitter = splitter_of(spec).build(spec, 3)
        assert splitter.merge(features, layout).shape == (layout.tokens, 3), (spec, size)
        assert {n: tuple(p.shape) for n, p in splitter.named_parameters()} == {
            p.name: p.shape for p in spec.parameters(3)
        }


def test_merge_is_a_walk_over_the_map() -> None:
    """Each token placed by hand: view, row and column, tile by tile."""
    for spec, connector, size in itertools.product(STITCHING, (KEPT, UNEVEN), SIZES):
        layout = spec.layout(size, ENCODER, connector)
        assert connector.grid is not None
        assert layout.kept is not None
        rows, columns = connector.grid
        features = torch.randn(layout.views, connector.tokens, 3)
        splitter = splitter_of(spec).build(spec, 3)
        whole = layout.views - math.prod(layout.tiles)
        expected = [*features[:whole].reshape(-1, 3)]
        top, left, bottom, right = layout.kept
        for row in range(top, bottom):
            for column in range(left, right):
                tile = row // rows * layout.tiles[1] + column // columns
                expected.append(features[whole + tile, row % rows * columns + column % columns])
            expected += [] if splitter.newline is None else [splitter.newline]
        merged = splitter.merge(features, layout)
        assert len(merged) == len(expected)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(merged, expected, strict=True))


def test_no_picture_takes_more_than_the_largest() -> None:
    draw = random.Random(0)
    sizes = [(draw.randint(1, 400), draw.randint(1, 400)) for _ in range(300)]
    specs: tuple[TiledSpec, ...] = (*STITCHING, AnyresSpec(merge="flat"), AnyresSpec(grids=[(56, 28), (28, 140)]))
    for spec, connector in itertools.product(specs, (KEPT, UNEVEN)):
        largest = spec.largest(ENCODER, connector)
        if connector is KEPT:
            assert spec.layout(largest.image_size, ENCODER, connector) == largest
        assert all(spec.layout(size, ENCODER, connector).tokens <= largest.tokens for size in sizes)


def test_the_largest_pictures_of_the_papers() -> None:
    clip_336 = VisionShape(image_size=(336, 336), grid=(24, 24), width=1024)
    clip_224 = VisionShape(image_size=(224, 224), grid=(16, 16), width=1024)
    assert AnyresSpec().largest(clip_336, ConnectorShape(576, 4096, (24, 24))).tokens == 576 + 48 * 49
    # Six views in a column have more row ends than two by three.
    assert HdSpec().largest(clip_224, ConnectorShape(256, 4096, (16, 16))).tokens == 256 + 96 * 17
    assert HdSpec().layout((448, 672), clip_224, ConnectorShape(256, 4096, (16, 16))).tokens == 256 + 32 * 49


class TestHd:
    def test_a_token_stays_if_its_patch_shows_any_of_the_picture(self) -> None:
        for connector, size in itertools.product((KEPT, POOLED, UNEVEN), SIZES):
            layout = HdSpec().layout(size, ENCODER, connector)
            assert connector.grid is not None
            assert layout.kept is not None
            shown = content_box(size, layout.canvas)
            for axis in (0, 1):
                tokens = layout.tiles[axis] * connector.grid[axis]
                patch = Fraction(layout.canvas[axis], tokens)
                start, end = shown[axis], shown[axis + 2]
                kept = [t for t in range(tokens) if t * patch < end and (t + 1) * patch > start]
                assert kept == list(range(layout.kept[axis], layout.kept[axis + 2]))

    def test_padding_is_the_encoders_mean_or_a_colour(self) -> None:
        picture = Image.new("RGB", (28, 10), (255, 0, 0))
        layout = HdSpec().layout((10, 28), ENCODER, KEPT)
        assert layout.canvas == (28, 28)
        for spec, color in ((HdSpec(), GREY), (HdSpec(color=(0, 0, 0)), (0, 0, 0))):
            whole, tile = HdSplitter.split(spec, picture, layout, GREY)
            assert whole.tobytes() == tile.tobytes()  # both are the picture between borders of 9 rows
            assert {tile.getpixel((x, y)) for x in (0, 27) for y in (0, 8, 19, 27)} == {color}
            assert {tile.getpixel((x, y)) for x in (0, 27) for y in (9, 18)} == {(255, 0, 0)}

    def test_views_of_the_whole_picture(self) -> None:
        picture = Image.new("RGB", (60, 20), (255, 0, 0))
        views = {}
        for kind in ("pad", "resize", "none"):
            spec = HdSpec.model_validate({"global_view": kind})
            views[kind] = HdSplitter.split(spec, picture, spec.layout((20, 60), ENCODER, KEPT), GREY)
        assert views["pad"][0].size == (60, 60)
        assert views["pad"][0].getpixel((30, 0)) == GREY
        assert views["resize"][0].size == (28, 28)
        assert views["resize"][0].getcolors() == [(28 * 28, (255, 0, 0))]
        tiles = [view.tobytes() for view in views["none"]]
        assert [view.tobytes() for view in views["pad"][1:]] == tiles == [v.tobytes() for v in views["resize"][1:]]

    def test_fewer_and_more_tiles(self) -> None:
        assert HdSpec(max_tiles=1).canvases((28, 28)) == [(28, 28)]
        for count in (4, 9, 12):
            shapes = {(h // 28, w // 28) for h, w in HdSpec(max_tiles=count).canvases((28, 28))}
            every = itertools.product(range(1, count + 1), repeat=2)
            assert shapes == {(rows, columns) for rows, columns in every if rows * columns <= count}


class TestAnyres:
    def test_the_whole_picture_is_squeezed_and_tiles_are_padded_with_black(self) -> None:
        spec = AnyresSpec(grids=[(56, 56)])
        layout = spec.layout((28, 56), ENCODER, KEPT)
        whole, *tiles = AnyresSplitter.split(spec, Image.new("RGB", (56, 28), (255, 0, 0)), layout, GREY)
        assert whole.getcolors() == [(28 * 28, (255, 0, 0))]
        canvas = Image.new("RGB", (56, 56))
        for tile, corner in zip(tiles, ((0, 0), (28, 0), (0, 28), (28, 28)), strict=True):
            canvas.paste(tile, corner)
        assert canvas.getcolors() == [(56 * 28, (255, 0, 0)), (56 * 28, (0, 0, 0))]
        assert canvas.getpixel((0, 13)) == (0, 0, 0)
        assert canvas.getpixel((0, 14)) == (255, 0, 0)

    def test_tall_pictures_are_resized_as_models_saw_them(self) -> None:
        """Across first, then down; Pillow 13 alone would turn this round."""
        picture = Image.frombytes("RGB", (40, 200), random.Random(1).randbytes(40 * 200 * 3))
        (whole,) = AnyresSplitter.split(
            AnyresSpec(), picture, AnyresSpec(grids=[]).layout((200, 40), ENCODER, KEPT), GREY
        )
        across = picture.resize((28, 200), Image.Resampling.BICUBIC)
        assert whole.tobytes() == across.resize((28, 28), Image.Resampling.BICUBIC).tobytes()

    def test_grids_are_width_first(self) -> None:
        layout = AnyresSpec(grids=[(84, 28)]).layout((10, 10), ENCODER, KEPT)
        assert (layout.canvas, layout.tiles) == ((28, 84), (1, 3))

    def test_views_that_are_not_square(self) -> None:
        encoder = VisionShape(image_size=(28, 56), grid=(2, 4), width=8)
        connector = ConnectorShape(tokens=8, width=3, grid=(2, 4))
        for spec in (AnyresSpec(), HdSpec()):
            layout = spec.layout((56, 112), encoder, connector)
            assert (layout.canvas, layout.tiles) == ((56, 112), (2, 2))
            views = splitter_of(spec).split(spec, Image.new("RGB", (112, 56)), layout, GREY)
            assert {view.size for view in views[1:]} == {(56, 28)}
            assert layout.tokens == 8 + 4 * (8 + 1)


CLS = VisionShape(image_size=(28, 28), grid=(4, 4), width=8, extra_tokens=1)
BESIDE = ConnectorShape(tokens=17, width=3, grid=None)


@pytest.mark.parametrize(
    ("spec", "encoder", "connector", "words"),
    [
        (AnyresSpec(), ENCODER, RESAMPLED, ("spatial_unpad", "7 tokens", "connector that keeps the grid", "flat")),
        (AnyresSpec(merge="spatial"), ENCODER, RESAMPLED, ("merge spatial", "7 tokens", "merge: flat")),
        (HdSpec(), ENCODER, RESAMPLED, ("hd stitches", "7 tokens", "anyres splitter with merge: flat")),
        (HdSpec(), CLS, BESIDE, ("hd", "encoder keeps 1 token", "CLS", "cls_token: false")),
        (AnyresSpec(), CLS, BESIDE, ("spatial_unpad", "encoder keeps 1 token", "cls_token: false", "merge: flat")),
        (AnyresSpec(grids=[(60, 28)]), ENCODER, KEPT, ("[60, 28]", "[28, 28]", "change `grids`", "merge: flat")),
    ],
)
def test_what_cannot_be_stitched(
    spec: TiledSpec, encoder: VisionShape, connector: ConnectorShape, words: tuple[str, ...]
) -> None:
    calls: tuple[Callable[[], TileLayout], ...] = (
        lambda: spec.layout((30, 40), encoder, connector),
        lambda: spec.largest(encoder, connector),
    )
    for call in calls:
        with pytest.raises(IncompatibleParts) as caught:
            call()
        assert all(word in str(caught.value) for word in words), str(caught.value)


def test_flat_takes_any_tokens() -> None:
    assert AnyresSpec(merge="flat").layout((30, 40), CLS, BESIDE).tokens % 17 == 0


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (AnyresSpec, {"grids": [[0, 28]]}),
        (AnyresSpec, {"grids": [[28, 28, 28]]}),
        (AnyresSpec, {"merge": "unpad"}),
        (HdSpec, {"max_tiles": 0}),
        (HdSpec, {"color": [0, 0, 256]}),
        (HdSpec, {"global_view": "crop"}),
    ],
)
def test_fields_that_mean_nothing(spec: type[TiledSpec], fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        spec.model_validate(fields)
