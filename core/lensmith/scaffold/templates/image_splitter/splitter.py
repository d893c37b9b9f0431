"""Cutting pictures and joining features. Imported when the splitter is built."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor, nn

from lensmith import ImageSplitter, TileLayout

from .spec import ExamplePartSpec


class ExamplePartSplitter(ImageSplitter):
    """See `ExamplePartSpec`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.end = nn.Parameter(0.02 * torch.randn(width))

    @classmethod
    def build(cls, spec: ExamplePartSpec, width: int) -> ExamplePartSplitter:
        """Build for a language model of width D."""
        return cls(width)

    @staticmethod
    def split(
        spec: ExamplePartSpec, image: Image.Image, layout: TileLayout, background: tuple[int, int, int]
    ) -> list[Image.Image]:
        """Cut an RGB picture into `layout.views` pictures of the encoder's size, left to right."""
        height, width = layout.canvas
        canvas = image.resize((width, height), Image.Resampling.BICUBIC)
        strip = width // layout.views
        return [canvas.crop((left, 0, left + strip, height)) for left in range(0, width, strip)]

    def merge(self, features: Tensor, layout: TileLayout) -> Tensor:
        """Join one picture's connected views (V, M, D) to one sequence (layout.tokens, D)."""
        ends = self.end.expand(len(features), 1, -1)
        return torch.cat([features, ends], dim=1).flatten(0, 1)
