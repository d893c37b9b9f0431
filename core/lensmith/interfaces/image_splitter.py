"""Image splitter: one picture to views, and the views' features back to one sequence."""

from __future__ import annotations

import abc
from typing import Any

from PIL import Image
from torch import Tensor, nn

from lensmith.interfaces.shapes import TileLayout


class ImageSplitter(nn.Module, abc.ABC):
    """Cuts pictures and merges features. Its geometry is its spec's `layout`.

    `split` runs in data workers on the spec alone, so it is a static half without weights.
    """

    @classmethod
    @abc.abstractmethod
    def build(cls, spec: Any, width: int) -> ImageSplitter:
        """Build for a language model of width D."""

    @staticmethod
    @abc.abstractmethod
    def split(spec: Any, image: Image.Image, layout: TileLayout, background: tuple[int, int, int]) -> list[Image.Image]:
        """Cut an RGB picture into `layout.views` pictures, to be preprocessed by the encoder.

        Args:
            spec: the splitter's spec.
            image: the decoded picture.
            layout: what the spec's `layout` said of its size.
            background: colour for padding.
        """

    @abc.abstractmethod
    def merge(self, features: Tensor, layout: TileLayout) -> Tensor:
        """Merge one picture's connected views (V, M, D) into one sequence (layout.tokens, D)."""
