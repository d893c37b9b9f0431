"""Where a picture lies on a canvas of tiles, and which tokens of the stitched map show it. Pure geometry.

The order of the floating-point steps is that of LLaVA-1.6 (Liu et al. 2024, "LLaVA-NeXT"), so that roundings and
ties fall the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lensmith import Box, Size


def best_canvas(image_size: Size, canvases: Sequence[Size]) -> Size:
    """The canvas (height, width) that shows most of a picture's pixels, and of those the one that wastes least.

    A picture that is scaled up shows no more than it has. Among equals the first canvas wins.
    """
    height, width = image_size

    def merit(canvas: Size) -> tuple[int, int]:
        scale = min(canvas[1] / width, canvas[0] / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        return shown, shown - canvas[0] * canvas[1]

    return max(canvases, key=merit)


def content_box(image_size: Size, canvas: Size) -> Box:
    """The pixels of a canvas that a picture covers when it is scaled to fit and centred; an odd rest is below."""
    height, width = image_size
    down, across = canvas[0] / height, canvas[1] / width
    if across < down:
        rows, columns = min(math.ceil(height * across), canvas[0]), canvas[1]
    else:
        rows, columns = canvas[0], min(math.ceil(width * down), canvas[1])
    top, left = (canvas[0] - rows) // 2, (canvas[1] - columns) // 2
    return top, left, top + rows, left + columns


def unpadded(image_size: Size, grid: Size, digits: int | None = None) -> Box:
    """The tokens of a stitched map that LLaVA-1.6 keeps, from the picture's aspect ratio alone.

    The kept rows (or columns) are rounded down and as many dropped on both sides, so that an odd rest stays and a
    picture of extreme proportions keeps none. Tokens are taken to be as high as they are wide.

    Args:
        image_size: (height, width) of the original picture.
        grid: (rows, columns) of the stitched map.
        digits: behind the point, to which the kept rows or columns are rounded before they are cut down, as
            transformers does; by default they are cut as they come out, as the original does, which takes
            99 * (24 / 88) = 26.999999999999996 for 26.
    """
    height, width = image_size
    rows, columns = grid

    def kept(length: float) -> int:
        return int(length if digits is None else round(length, digits))

    if width / height > columns / rows:
        dropped = (rows - kept(height * (columns / width))) // 2
        return dropped, 0, rows - dropped, columns
    dropped = (columns - kept(width * (rows / height))) // 2
    return 0, dropped, rows, columns - dropped


def showing(box: Box, canvas: Size, grid: Size) -> Box:
    """The tokens of a stitched map whose patch holds at least one pixel of a box, in whole numbers throughout.

    Args:
        box: the picture's pixels on the canvas.
        canvas: (height, width) in pixels.
        grid: (rows, columns) of the stitched map, which covers the canvas evenly.
    """
    top, left, bottom, right = box
    (height, width), (rows, columns) = canvas, grid
    return (
        top * rows // height,
        left * columns // width,
        -(-bottom * rows // height),
        -(-right * columns // width),
    )
