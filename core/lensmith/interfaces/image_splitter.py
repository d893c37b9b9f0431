"""Image splitter: one picture to views, and the views' features back to one sequence."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lensmith.errors import LensmithError
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

    def forward(self, features: Tensor, layouts: Sequence[TileLayout]) -> Tensor:
        """Merge every picture of a batch: connected views (V, M, D) of all of them to all their tokens (P, D).

        A batch is one call with one tensor in and out, however many pictures it has: ZeRO-3 gathers a module's
        weights around its call and once more for each output, and all ranks must gather equally often.

        Raises:
            LensmithError: a picture has another number of tokens than its layout says.
        """
        views = torch.split(features, [layout.views for layout in layouts])
        pictures = [self.merge(view, layout) for view, layout in zip(views, layouts, strict=True)]
        for number, (tokens, layout) in enumerate(zip(pictures, layouts, strict=True)):
            if len(tokens) != layout.tokens:
                raise LensmithError(
                    f"picture {number} of the batch was laid out for {layout.tokens} positions and has {len(tokens)}"
                    f" features: layout() and merge() of {type(self).__name__} disagree"
                )
        return torch.cat(pictures)

    @abc.abstractmethod
    def merge(self, features: Tensor, layout: TileLayout) -> Tensor:
        """Merge one picture's connected views (V, M, D) into one sequence (layout.tokens, D)."""
