"""Splitters with one view."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from lensmith import ImageSplitter, TileLayout
from lensmith_plugins.image_splitters.specs import PadSpec, SingleViewSpec, SquareSpec


class SingleViewSplitter(ImageSplitter):
    """A splitter without weights whose only view is the whole picture."""

    @classmethod
    def build(cls, spec: SingleViewSpec, width: int) -> SingleViewSplitter:
        """Build; there is nothing to size."""
        return cls()

    def merge(self, features: Tensor, layout: TileLayout) -> Tensor:
        """The one view's tokens: (1, M, D) to (M, D)."""
        return features[0]


class SquareSplitter(SingleViewSplitter):
    """Hands the picture on as it is; the encoder's preprocessing crops it."""

    @staticmethod
    def split(
        spec: SquareSpec, image: Image.Image, layout: TileLayout, background: tuple[int, int, int]
    ) -> list[Image.Image]:
        """The picture itself."""
        return [image]


class PadSplitter(SingleViewSplitter):
    """Pads pictures to squares, as LLaVA-1.5 does (Liu et al. 2023, arXiv 2310.03744)."""

    @staticmethod
    def split(
        spec: PadSpec, image: Image.Image, layout: TileLayout, background: tuple[int, int, int]
    ) -> list[Image.Image]:
        """The picture centred on a square; an odd pixel of border goes to the bottom or right."""
        return [centred_square(image, spec.color or background)]


def centred_square(image: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """A picture on a square of its longer side; itself where it is square."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new(image.mode, (side, side), color)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
