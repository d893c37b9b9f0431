"""How many bytes the features of a stage will take, before a weight is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lensmith.data.pictures import picture_size, resolve_inside
from lensmith.data.reader import RowReader
from lensmith.data.row_images import is_inline
from lensmith.dims import Dimensions
from lensmith.errors import DataError

_HEADERS = 1000
"""Pictures whose headers are read; the others are taken to have as many views on average."""


def estimate(reader: RowReader, rows: Iterable[int], dimensions: Dimensions, bytes_per_number: int) -> tuple[int, int]:
    """Bytes of the features of all pictures that some rows show, and how many pictures those are.

    Args:
        reader: of the stage.
        rows: running indices.
        dimensions: of the model.
        bytes_per_number: of the features' type.
    """
    shown: dict[tuple[Path, str], None] = {}
    for index in rows:
        root = reader.mixture.locate(index)[0].root
        try:
            shown |= dict.fromkeys((root, name) for name in reader.row(index).images if not is_inline(name))
        except DataError:
            continue  # told elsewhere
    pictures = list(shown)
    views = []
    for root, name in pictures[:: max(1, len(pictures) // _HEADERS)]:
        try:
            size = picture_size(resolve_inside(root, name), reader.mixture.spec.pictures)
        except DataError:
            continue
        views.append(dimensions.layout(*size).views)
    per_view = dimensions.encoder.tokens * dimensions.encoder.width * bytes_per_number
    return round(sum(views) / max(1, len(views)) * len(pictures)) * per_view, len(pictures)
