"""The network and its picture transform. Imported when the encoder is built."""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lensmith import Loading, Preprocessing, VisionEncoder

from .spec import ExamplePartSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, scaled to 0..1."""


class ExamplePartPreprocessing(Preprocessing):
    """Squeeze a picture to a square and normalise it."""

    background = (123, 116, 103)  # MEAN in 0..255

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        """One RGB picture of any size to float32 (3, H, W)."""
        resized = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        values = numpy.asarray(resized, dtype=numpy.float32) / 255
        return torch.from_numpy((values - MEAN) / STD).float().permute(2, 0, 1)


class ExamplePartEncoder(VisionEncoder):
    """See `ExamplePartSpec`."""

    def __init__(self, spec: ExamplePartSpec) -> None:
        super().__init__()
        self.shape = spec.shape()
        self.places = nn.Parameter(0.02 * torch.randn(self.shape.tokens, spec.width))
        self.patches = nn.Conv2d(3, spec.width, kernel_size=spec.patch_size, stride=spec.patch_size)
        self.norm = nn.LayerNorm(spec.width)

    @classmethod
    def build(cls, spec: ExamplePartSpec, loading: Loading) -> ExamplePartEncoder:
        """Build and load the weights that the spec names; a tensor that is missing is named in the error."""
        encoder = cls(spec)
        if spec.checkpoint is not None and loading.weights:
            try:
                encoder.load_state_dict(load_file(spec.checkpoint))
            except RuntimeError as error:
                raise ValueError(f"{spec.checkpoint}: {error}") from error
        return encoder.to(loading.dtype)

    @classmethod
    def preprocessing(cls, spec: ExamplePartSpec) -> Preprocessing:
        """The transform that belongs to these weights."""
        return ExamplePartPreprocessing(spec.image_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode views: pixels (V, 3, H, W) to (V, N, W), tokens in row-major order."""
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        encoded: Tensor = self.norm(tokens + self.places)
        return encoded

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write the weights to an empty folder; `state` has them where they are sharded over ranks."""
        weights = {name: (state or {}).get(name, own).detach().cpu() for name, own in self.state_dict().items()}
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
