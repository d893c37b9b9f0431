"""Vision encoder: pictures in, a grid of features out."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lensmith.interfaces.loading import Loading
from lensmith.interfaces.modes import hold_still, trains
from lensmith.interfaces.module_shapes import parameter_shapes
from lensmith.interfaces.shapes import VisionShape


class Preprocessing(abc.ABC):
    """From a decoded RGB picture of any size to the encoder's pixels.

    Needs no weights, is cheap to build and picklable: data workers own one each.
    """

    background: tuple[int, int, int]
    """The colour (0..255) that normalises to about zero; splitters pad with it."""

    @abc.abstractmethod
    def __call__(self, image: Image.Image) -> Tensor:
        """Resize, crop and normalise one RGB picture to float32 (3, H, W)."""


class VisionEncoder(nn.Module, abc.ABC):
    """Encodes views on their own.

    A subclass is made by `build`, which also loads the weights that the spec names, and sets `shape`.
    """

    shape: VisionShape

    @classmethod
    @abc.abstractmethod
    def build(cls, spec: Any, loading: Loading) -> VisionEncoder:
        """Build from the spec and load its weights.

        Raises:
            OSError: a weight file that is not there.
            ValueError: weights that do not fit, naming the tensors.
        """

    @classmethod
    @abc.abstractmethod
    def preprocessing(cls, spec: Any) -> Preprocessing:
        """The picture transform that belongs to these weights."""

    @classmethod
    def measure(cls, spec: Any) -> VisionShape:
        """Sizes by building on the meta device; for encoders without a closed form."""
        with torch.device("meta"):
            encoder = cls.build(spec, Loading(weights=False))
        return replace_parameters(encoder.shape, encoder)

    @abc.abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Encode views: pixels (V, 3, H, W) to features (V, N, W), tokens in row-major order."""

    def train(self, mode: bool = True) -> VisionEncoder:
        """Set the mode of `nn.Module.train`; what is frozen stays in evaluation mode: a whole encoder, or the batch
        norms of one that trains in part.

        Else the statistics of a batch norm would move, and a frozen encoder would not be frozen.
        """
        super().train(mode and trains(self))
        hold_still(self)
        return self

    def checkpoint_activations(self) -> bool:
        """See `LanguageModel.checkpoint_activations`."""
        return False

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write the weights to an empty folder that the spec's `relocated` points to (see `LanguageModel.save`)."""
        raise NotImplementedError(f"{type(self).__name__} must implement save() to be trained")


def replace_parameters(shape: VisionShape, module: nn.Module) -> VisionShape:
    """The same shape with the module's own list of tensors."""
    from dataclasses import replace

    return replace(shape, parameters=parameter_shapes(module))
