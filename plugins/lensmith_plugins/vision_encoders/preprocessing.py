"""Picture transforms of the encoders."""

from __future__ import annotations

from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil

from lensmith import Preprocessing


class ResizeAndCrop(Preprocessing):
    """Resize the shortest edge, crop the centre, normalise: transformers' processor on PIL.

    The PIL processor computes what CLIP and LLaVA were trained with; the default one, on torchvision, resizes
    differently by up to two grey levels.

    Args:
        processor: the processor with its sizes and colours.
    """

    def __init__(self, processor: CLIPImageProcessorPil) -> None:
        self.processor = processor
        red, green, blue = (int(mean * 255) for mean in processor.image_mean)
        self.background = (red, green, blue)

    def __call__(self, image: Image.Image) -> Tensor:
        """One RGB picture of any size to float32 (3, H, W)."""
        pixels: Tensor = self.processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels
