"""Picture transforms of the encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from lensmith import Preprocessing
from lensmith_plugins.resizing import resize


def background(mean: Sequence[float]) -> tuple[int, int, int]:
    """The colour (0..255) that normalises to about zero, rounded down as LLaVA does."""
    red, green, blue = (int(value * 255) for value in mean)
    return (red, green, blue)


class PilPreprocessing(Preprocessing):
    """Resize, crop and normalise with transformers' image processor on PIL.

    The PIL processor computes what CLIP and LLaVA were trained with; the default one, on torchvision, resizes
    differently by up to two grey levels. The resize is done here, for Pillow's own depends on its version.

    Args:
        processor: the PIL processor of the encoder's family with its sizes and colours.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.background = background(processor.image_mean)

    def __call__(self, image: Image.Image) -> Tensor:
        """One RGB picture of any size to float32 (3, H, W)."""
        if self.processor.do_resize:
            image = resize(image, *self._target(image.width, image.height), Image.Resampling(self.processor.resample))
        pixels: Tensor = self.processor(image, do_resize=False, return_tensors="pt")["pixel_values"][0]
        return pixels

    def _target(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop: the shortest edge fitted, or both sides."""
        size = self.processor.size
        if not size.shortest_edge:
            return int(size.width), int(size.height)
        short, long = sorted((width, height))
        fitted = (size.shortest_edge, int(size.shortest_edge * long / short))
        return fitted if width <= height else fitted[::-1]
