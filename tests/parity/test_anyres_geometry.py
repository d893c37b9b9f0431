"""Canvas, kept tokens, counts and token order of the original's anyres pictures, through `layout` and `merge`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lensmith import ConnectorShape, TileLayout, VisionShape
from lensmith_plugins.image_splitters.canvas import content_box, unpadded
from lensmith_plugins.image_splitters.specs import AnyresSpec, HdSpec
from lensmith_plugins.image_splitters.tiled import AnyresSplitter

PATCH = 14


def parts(side: int) -> tuple[VisionShape, ConnectorShape]:
    """An encoder of square views and a connector that keeps its grid."""
    cells = side // PATCH
    return (
        VisionShape(image_size=(side, side), grid=(cells, cells), width=8),
        ConnectorShape(tokens=cells * cells, width=1, grid=(cells, cells)),
    )


def anyres(grids: list[list[int]], merge: str) -> AnyresSpec:
    return AnyresSpec.model_validate({"grids": grids, "merge": merge})


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    found = json.loads((shared / "golden" / "anyres" / "anyres.json").read_text())
    assert len(found["select"]) > 300
    assert len(found["token_order"]) > 20
    return dict(found)


@pytest.fixture(scope="module")
def selected(golden: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """Every recorded size with the side of its views."""
    sides = {name: int(name.rpartition("_")[2].lstrip("t")) for name in golden["grids"]}
    return [(record, sides[record["grid"]]) for record in golden["select"]]


def test_every_size_is_laid_out_as_the_original_does(golden: dict[str, Any], selected: Any) -> None:
    for record, side in selected:
        width, height = record["wh"]
        encoder, connector = parts(side)
        layouts: dict[str, TileLayout] = {
            merge: anyres(golden["grids"][record["grid"]], merge).layout((height, width), encoder, connector)
            for merge in ("flat", "spatial", "spatial_unpad")
        }
        unpad = layouts["spatial_unpad"]
        assert [unpad.canvas[1], unpad.canvas[0]] == record["best"], record
        assert [unpad.tiles[1], unpad.tiles[0]] == record["grid_shape_wh"], record
        assert unpad.kept is not None
        top, left, bottom, right = unpad.kept
        assert [bottom - top, right - left] == record["unpadded_hw"], record
        assert unpad.tokens == record["n_tokens_unpad"], record
        assert layouts["flat"].tokens == record["n_tokens_flat"], record
        assert layouts["spatial"].tokens == record["n_tokens_spatial"], record
        if "content_box_x0y0x1y1" in record:
            top, left, bottom, right = content_box((height, width), unpad.canvas)
            assert [left, top, right, bottom] == record["content_box_x0y0x1y1"], record


def test_default_grids_are_those_of_the_checkpoints(selected: Any) -> None:
    encoder, connector = parts(336)
    sizes = [(record["wh"], record["best"]) for record, side in selected if side == 336]
    assert len(sizes) > 100
    for (width, height), best in sizes:
        layout = AnyresSpec().layout((height, width), encoder, connector)
        assert [layout.canvas[1], layout.canvas[0]] == best


def test_hd_chooses_as_the_original_would_among_its_grids(golden: dict[str, Any], selected: Any) -> None:
    encoder, connector = parts(224)
    canvases = HdSpec().canvases((224, 224))
    assert [[width, height] for height, width in canvases] == golden["grids"]["hd15_224"]
    sizes = [(record["wh"], record["best"]) for record, side in selected if side == 224]
    assert len(sizes) > 100
    for (width, height), best in sizes:
        layout = HdSpec().layout((height, width), encoder, connector)
        assert [layout.canvas[1], layout.canvas[0]] == best


def orders(golden: dict[str, Any]) -> Iterator[tuple[dict[str, Any], AnyresSpec]]:
    for record in golden["token_order"]:
        grids = [] if record["grid_wh"] is None else golden["grids"]["t56"]
        yield record, anyres(grids, record["merge"])


def test_tokens_come_in_the_originals_order(golden: dict[str, Any]) -> None:
    encoder, connector = parts(56)
    for record, spec in orders(golden):
        width, height = record["wh"]
        layout = spec.layout((height, width), encoder, connector)
        assert layout.views == record["n_tiles"]
        if record["grid_wh"] is not None:
            assert [layout.tiles[1], layout.tiles[0]] == record["grid_wh"]
        markers = 1000 * torch.arange(layout.views)[:, None] + torch.arange(connector.tokens)  # (V, M)
        splitter = AnyresSplitter.build(spec, 1)
        for parameter in splitter.parameters():
            torch.nn.init.constant_(parameter, -1)
        merged = splitter.merge(markers[..., None].float(), layout)
        assert merged.flatten().tolist() == record["tokens"], record["merge"]
        assert layout.tokens == len(record["tokens"])


def test_maps_are_cut_as_the_originals_unpad_image_cuts_them(golden: dict[str, Any]) -> None:
    for record in golden["unpad_image"]:
        rows, columns = record["hw"]
        width, height = record["orig_wh"]
        top, left, bottom, right = unpadded((height, width), (rows, columns))
        assert [bottom - top, right - left] == record["out_hw"]
        assert (top * columns + left, (bottom - 1) * columns + right - 1) == (record["first"], record["last"])
