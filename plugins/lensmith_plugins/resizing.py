"""Resizing that gives the same pixels with every version of Pillow."""

from __future__ import annotations

from PIL import Image


def resize(
    image: Image.Image, width: int, height: int, filter: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Resize horizontally, then vertically, with 8 bits between, as Pillow did before version 13.

    Pillow 13 takes the other pass first where a picture loses much height (its pull request 9549), which changes
    pixels by a grey level or more; models were trained with this order.
    """
    across = image.resize((width, image.height), filter)
    return across.resize((width, height), filter)
