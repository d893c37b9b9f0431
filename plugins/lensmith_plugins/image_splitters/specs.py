"""The specs of the image splitters, with the exact geometry of each. No torch here."""

from __future__ import annotations

import abc
import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from lensmith import (
    Box,
    ConnectorShape,
    ImageSplitterSpec,
    IncompatibleParts,
    Parameters,
    ParameterShape,
    Size,
    TileLayout,
    VisionShape,
)
from lensmith_plugins.image_splitters.canvas import best_canvas, content_box, showing, unpadded

Channel = Annotated[int, Field(ge=0, le=255)]
Pixels = Annotated[int, Field(ge=1, le=16384)]

_DIGITS = {"original": None, "transformers": 7}
_LARGEST_TELLING = 640
SHAPES = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""(columns, rows) of views on the canvases of LLaVA-1.6's checkpoints, in their order."""


class SingleViewSpec(ImageSplitterSpec):
    """A splitter whose only view is the whole picture."""

    def layout(self, image_size: Size, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """One view, and as many positions as the connector makes of it."""
        return TileLayout(views=1, tokens=connector.tokens, image_size=image_size, canvas=encoder.image_size)


class SquareSpec(SingleViewSpec):
    """The picture as it is: the encoder resizes its shortest edge and crops the centre, losing the longer ends."""


class PadSpec(SingleViewSpec):
    """The picture centred on a square of its longer side, so that nothing is cropped."""

    color: tuple[Channel, Channel, Channel] | None = None
    """Red, green and blue of the border, 0..255. Default none: the encoder's mean colour."""


class TiledSpec(ImageSplitterSpec, abc.ABC):
    """A splitter that lays a picture on a canvas of tiles and shows the encoder each tile at its full size.

    Views: the whole picture once (unless a spec leaves it out), then the tiles, row by row.
    """

    @abc.abstractmethod
    def canvases(self, view: Size) -> list[Size]:
        """The canvases (height, width) in pixels to choose from, for views of that size."""

    @abc.abstractmethod
    def on(self, canvas: Size, image_size: Size, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """The layout of a picture on a chosen canvas. Raises as `layout`."""

    @property
    @abc.abstractmethod
    def row_ends(self) -> bool:
        """Whether a learned vector ends each row of the stitched map."""

    def layout(self, image_size: Size, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """The canvas that keeps most detail of the picture, and of those the smallest."""
        canvas = best_canvas(image_size, self.canvases(encoder.image_size))
        return self.on(canvas, image_size, encoder, connector)

    def largest(self, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """That of a picture of a canvas's own size, of which no token is padding; none is laid on a larger one."""
        canvases = self.canvases(encoder.image_size)
        layouts = [self._filled(self.on(canvas, canvas, encoder, connector)) for canvas in canvases]
        return max(layouts, key=lambda layout: layout.tokens)

    def _filled(self, layout: TileLayout) -> TileLayout:
        """The same with the whole map kept, which a rounding or a grid of tokens that are not square could prevent."""
        if layout.grid is None or layout.kept is None:
            return layout
        whole = layout.tokens - positions(layout.kept, row_ends=self.row_ends)
        kept = (0, 0, layout.tiles[0] * layout.grid[0], layout.tiles[1] * layout.grid[1])
        return replace(layout, tokens=whole + positions(kept, row_ends=self.row_ends), kept=kept)

    def parameters(self, width: int) -> Parameters:
        """The row-end vector (D,), where the method has one."""
        return (ParameterShape("newline", (width,)),) if self.row_ends else ()


class AnyresSpec(TiledSpec):
    """LLaVA-1.6: the whole picture squeezed into one view, then tiles of it on a black canvas at its own aspect
    ratio. The canvas is the one of `grids` that keeps most of the picture's pixels and wastes least."""

    grids: list[tuple[Pixels, Pixels]] | None = Field(None, max_length=256)
    """The canvases to choose from, each [width, height] in pixels (in this order, as in LLaVA's
    `image_grid_pinpoints`); the first wins ties, and an empty list cuts no tiles. Default none: 1x2, 2x1, 2x2, 3x1
    and 1x3 views (columns x rows) of the encoder's own size, LLaVA-1.6's."""

    merge: Literal["flat", "spatial", "spatial_unpad"] = "spatial_unpad"
    """How the views' features become one sequence, the whole picture's first. `flat`: one tile after the other.
    `spatial`: the tiles stitched to one map, row by row. `spatial_unpad`: also the padding is cut off the map and a
    learned vector ends each of its rows. Default spatial_unpad."""

    rounding: Literal["original", "transformers"] = "original"
    """Of `spatial_unpad`: how many rows or columns of the map show the picture where that comes out a rounding below a
    whole number. `original`: cut down as it comes out, as LLaVA-1.6's code does; `transformers`: rounded to 7 digits
    first, as transformers and vLLM do. A picture 88 wide and 99 high takes 1,226 or 1,276 positions at 336 px. Default
    original."""

    @property
    def row_ends(self) -> bool:
        """With `spatial_unpad`."""
        return self.merge == "spatial_unpad"

    def canvases(self, view: Size) -> list[Size]:
        """`grids`, vertical first."""
        if self.grids is not None:
            return [(height, width) for width, height in self.grids]
        return [(rows * view[0], columns * view[1]) for columns, rows in SHAPES]

    def layout(self, image_size: Size, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """See `TiledSpec`; with no grid at all the whole picture, and after it one row end where there are such."""
        if self.grids == []:
            tokens = connector.tokens + self.row_ends
            view = encoder.image_size
            return TileLayout(1, tokens, image_size, canvas=view, tiles=(0, 0), view_size=view)
        return super().layout(image_size, encoder, connector)

    def largest(self, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """See `TiledSpec`."""
        if self.grids == []:
            return self.layout(encoder.image_size, encoder, connector)
        return super().largest(encoder, connector)

    def telling_sizes(self, encoder: VisionShape, connector: ConnectorShape) -> list[Size]:
        """See `ImageSplitterSpec.telling_sizes`: one that the two ways of `rounding` lay out otherwise."""
        if not self.row_ends or self.grids == []:
            return []
        other = self.model_copy(update={"rounding": "original" if self.rounding != "original" else "transformers"})
        maps = {layout.kept[2:] for layout in self._whole_maps(encoder, connector) if layout.kept}
        for size in _near_whole_numbers(maps):
            if self.layout(size, encoder, connector).tokens != other.layout(size, encoder, connector).tokens:
                return [size]
        return []

    def _whole_maps(self, encoder: VisionShape, connector: ConnectorShape) -> list[TileLayout]:
        canvases = self.canvases(encoder.image_size)
        return [self._filled(self.on(canvas, canvas, encoder, connector)) for canvas in canvases]

    def on(self, canvas: Size, image_size: Size, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """See `TiledSpec.on`. A canvas that is no whole number of views has ragged tiles, filled up with black.

        Raises:
            IncompatibleParts: a stitching merge where the connector keeps no grid, or with ragged tiles.
        """
        view = encoder.image_size
        tiles = (math.ceil(canvas[0] / view[0]), math.ceil(canvas[1] / view[1]))
        views = 1 + math.prod(tiles)
        if self.merge == "flat":
            return TileLayout(views, views * connector.tokens, image_size, canvas, tiles, view_size=view)
        if canvas != (tiles[0] * view[0], tiles[1] * view[1]):
            raise IncompatibleParts(
                f"merge {self.merge} stitches whole views, and the grid [{canvas[1]}, {canvas[0]}] ([width, height]) is"
                f" no multiple of the encoder's view, [{view[1]}, {view[0]}]; change `grids`, or use merge: flat"
            )
        grid = kept_grid(f"merge {self.merge}", encoder, connector)
        stitched = (tiles[0] * grid[0], tiles[1] * grid[1])
        kept = unpadded(image_size, stitched, _DIGITS[self.rounding]) if self.row_ends else (0, 0, *stitched)
        tokens = connector.tokens + positions(kept, row_ends=self.row_ends)
        return TileLayout(views, tokens, image_size, canvas, tiles, view, grid, kept)


class HdSpec(TiledSpec):
    """LLaVA-1.5-HD: the picture padded to a canvas of up to six views, its features stitched to one map without those
    of padding, a learned vector at the end of each row, and the whole picture in one view before it. The paper
    leaves open which comes first; the whole picture does, as in LLaVA-1.6's code."""

    max_tiles: int = Field(6, ge=1, le=64)
    """Views of the largest canvas; every rectangle of up to so many views is one to choose. Default 6."""

    color: tuple[Channel, Channel, Channel] | None = None
    """Red, green and blue of the padding, 0..255; LLaVA-1.6's code has black. Default none: the encoder's mean."""

    global_view: Literal["pad", "resize", "none"] = "pad"
    """The view of the whole picture: padded to a square, as the paper says; `resize`d to the view whatever its aspect
    ratio, as LLaVA-1.6's code does; or none, the tiles alone. Default pad."""

    @property
    def row_ends(self) -> bool:
        """Always."""
        return True

    def canvases(self, view: Size) -> list[Size]:
        """Every rectangle of at most `max_tiles` views: 1 x 1, then by the shorter side, the upright one first."""
        shapes: list[Size] = []
        for short in range(1, math.isqrt(self.max_tiles) + 1):
            for long in range(short, self.max_tiles // short + 1):
                shapes += [(long, short), (short, long)] if long > short else [(short, long)]
        return [(rows * view[0], columns * view[1]) for rows, columns in shapes]

    def on(self, canvas: Size, image_size: Size, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """See `TiledSpec.on`. Tokens stay whose patch shows at least one pixel of the picture.

        Raises:
            IncompatibleParts: the connector keeps no grid.
        """
        view = encoder.image_size
        tiles = (canvas[0] // view[0], canvas[1] // view[1])
        grid = kept_grid("hd", encoder, connector)
        stitched = (tiles[0] * grid[0], tiles[1] * grid[1])
        kept = showing(content_box(image_size, canvas), canvas, stitched)
        whole = int(self.global_view != "none")
        tokens = whole * connector.tokens + positions(kept, row_ends=True)
        return TileLayout(whole + math.prod(tiles), tokens, image_size, canvas, tiles, view, grid, kept)


def _near_whole_numbers(maps: Collection[Size]) -> Iterator[Size]:
    """Sizes (height, width) of which a map's rows or columns come out a rounding below a whole number, small first."""
    for longest in range(16, _LARGEST_TELLING):
        for shorter in range(longest // 8 + 1, longest):
            for height, width in ((longest, shorter), (shorter, longest)):
                for rows, columns in maps:
                    over, kept = (height * columns) % width, height * (columns / width)
                    if width * rows <= height * columns:  # the other way round: its columns are cut
                        over, kept = (width * rows) % height, width * (rows / height)
                    if over == 0 and kept != round(kept):
                        yield height, width


def positions(kept: Box, *, row_ends: bool) -> int:
    """How many positions a part of a map takes, with or without a vector at the end of each row."""
    top, left, bottom, right = kept
    return (bottom - top) * (right - left + row_ends)


def kept_grid(stitcher: str, encoder: VisionShape, connector: ConnectorShape) -> Size:
    """(rows, columns) of the tokens that a connector makes of one view.

    Args:
        stitcher: what needs them, for the message.

    Raises:
        IncompatibleParts: the tokens do not lie on a grid; says whether encoder or connector is the reason.
    """
    grid = connector.grid
    if grid is not None and math.prod(grid) == connector.tokens:
        return grid
    if encoder.extra_tokens and connector.tokens == encoder.tokens:
        raise IncompatibleParts(
            f"{stitcher} stitches the views' maps, and the encoder keeps {encoder.extra_tokens} token(s) beside its"
            " grid (CLS), which lie nowhere on a map; leave them out (`cls_token: false`), or use the anyres splitter"
            " with merge: flat"
        )
    raise IncompatibleParts(
        f"{stitcher} stitches the views' maps, and the {connector.tokens} tokens that the connector makes of a view lie"
        " on no grid; use a connector that keeps the grid (e.g. linear, mlp), or the anyres splitter with merge: flat"
    )
