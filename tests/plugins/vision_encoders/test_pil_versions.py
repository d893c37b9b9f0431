"""A picture's pixels do not depend on Pillow's version: across first, then down, with 8 bits between."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, SiglipImageProcessorPil

from lensmith_plugins.vision_encoders.preprocessing import PilPreprocessing

SIZES = [(100, 300), (100, 600), (61, 400), (300, 100), (57, 55), (20, 20)]


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_passes_are_taken_in_order(size: tuple[int, int]) -> None:
    image = noise(*size)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=56)
    width, height = (56, int(56 * size[1] / size[0])) if size[0] <= size[1] else (int(56 * size[0] / size[1]), 56)
    # Turned on its side, a picture takes its passes in the other order; Pillow never shrinks the width last.
    across = image.resize((width, size[1]), Image.Resampling.BICUBIC)
    down = across.transpose(Image.Transpose.ROTATE_90).resize((height, width), Image.Resampling.BICUBIC)
    expected = processor(down.transpose(Image.Transpose.ROTATE_270), do_resize=False, return_tensors="pt")
    assert torch.equal(PilPreprocessing(processor)(image), expected["pixel_values"][0])


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size=28),
        SiglipImageProcessorPil(size={"height": 28, "width": 28}),
        BitImageProcessorPil(size={"shortest_edge": 32}, crop_size=28),
    ],
    ids=["clip", "siglip", "dinov2"],
)
@pytest.mark.parametrize("size", [(64, 48), (40, 37), (28, 28), (90, 31)], ids=str)
def test_the_sizes_are_the_processors_own(processor: CLIPImageProcessorPil, size: tuple[int, int]) -> None:
    """Pictures that no version of Pillow resizes in another order, against the whole processor."""
    image = noise(*size)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(PilPreprocessing(processor)(image), expected)
