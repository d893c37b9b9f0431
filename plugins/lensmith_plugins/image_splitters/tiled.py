"""Splitters that cut tiles and stitch their features to one map."""

from __future__ import annotations

import math

import torch
from PIL import Image
from torch import Tensor, nn

from lensmith import ImageSplitter, TileLayout
from lensmith_plugins.image_splitters.canvas import content_box
from lensmith_plugins.image_splitters.single_view import centred_square
from lensmith_plugins.image_splitters.specs import AnyresSpec, HdSpec, TiledSpec
from lensmith_plugins.resizing import resize

Color = tuple[int, int, int]
BLACK: Color = (0, 0, 0)


class TiledSplitter(ImageSplitter):
    """Merges the views of a picture: the whole picture's tokens, then its tiles', as the layout says.

    Args:
        width: D.
        row_ends: whether a learned vector `newline` (D,) ends each row of the stitched map; it starts from a normal
            distribution of variance 1 / D, about as long as a token's embedding.
    """

    newline: nn.Parameter | None

    def __init__(self, width: int, *, row_ends: bool) -> None:
        super().__init__()
        self.register_parameter("newline", nn.Parameter(torch.randn(width) / math.sqrt(width)) if row_ends else None)

    @classmethod
    def build(cls, spec: TiledSpec, width: int) -> TiledSplitter:
        """Build with a fresh row-end vector, where the spec has one."""
        return cls(width, row_ends=spec.row_ends)

    def merge(self, features: Tensor, layout: TileLayout) -> Tensor:
        """One picture's connected views (V, M, D) to one sequence (layout.tokens, D)."""
        count = math.prod(layout.tiles)
        whole, tiles = features[: layout.views - count], features[layout.views - count :]
        if layout.kept is not None:
            detail = self.rows(tiles, layout)
        elif count or self.newline is None:
            detail = tiles.flatten(0, 1)
        else:  # a picture without tiles is one row
            detail = self.newline[None].to(features.dtype)
        return torch.cat([whole.flatten(0, 1), detail])

    def rows(self, tiles: Tensor, layout: TileLayout) -> Tensor:
        """Tiles (V, M, D) stitched to one map, what is not kept cut off, rows ended: (positions, D)."""
        assert layout.grid is not None
        assert layout.kept is not None
        (down, across), (rows, columns), width = layout.tiles, layout.grid, tiles.shape[-1]
        stitched = tiles.reshape(down, across, rows, columns, width).transpose(1, 2)
        stitched = stitched.reshape(down * rows, across * columns, width)
        top, left, bottom, right = layout.kept
        kept = stitched[top:bottom, left:right]
        if self.newline is not None:
            ends = self.newline.to(kept.dtype).expand(len(kept), 1, -1)
            kept = torch.cat([kept, ends], dim=1)
        return kept.flatten(0, 1)


class AnyresSplitter(TiledSplitter):
    """Cuts and merges as LLaVA-1.6 does (Liu et al. 2024, "LLaVA-NeXT")."""

    @staticmethod
    def split(spec: AnyresSpec, image: Image.Image, layout: TileLayout, background: Color) -> list[Image.Image]:
        """The whole picture resized to one view, then the tiles of its canvas, padded with black."""
        whole = squeezed(image, layout)
        return [whole, *cut(on_canvas(image, layout, BLACK), layout)] if math.prod(layout.tiles) else [whole]


class HdSplitter(TiledSplitter):
    """Cuts and merges as LLaVA-1.5-HD does (Liu et al. 2023, arXiv 2310.03744, section 3.4)."""

    @staticmethod
    def split(spec: HdSpec, image: Image.Image, layout: TileLayout, background: Color) -> list[Image.Image]:
        """The whole picture as `global_view` says, then the tiles of its canvas, padded with the colour."""
        color = spec.color or background
        tiles = cut(on_canvas(image, layout, color), layout)
        if spec.global_view == "none":
            return tiles
        return [squeezed(image, layout) if spec.global_view == "resize" else centred_square(image, color), *tiles]


def squeezed(image: Image.Image, layout: TileLayout) -> Image.Image:
    """The whole picture resized to one view, its aspect ratio ignored."""
    assert layout.view_size is not None
    height, width = layout.view_size
    return resize(image, width, height)


def on_canvas(image: Image.Image, layout: TileLayout, color: Color) -> Image.Image:
    """The picture scaled to fit its canvas and centred on it."""
    top, left, bottom, right = content_box(layout.image_size, layout.canvas)
    canvas = Image.new("RGB", (layout.canvas[1], layout.canvas[0]), color)
    canvas.paste(resize(image, right - left, bottom - top), (left, top))
    return canvas


def cut(canvas: Image.Image, layout: TileLayout) -> list[Image.Image]:
    """Views of a canvas, row by row; what a ragged one lacks is black."""
    assert layout.view_size is not None
    height, width = layout.view_size
    rows, columns = layout.tiles
    corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
    return [canvas.crop((x, y, x + width, y + height)) for x, y in corners]
