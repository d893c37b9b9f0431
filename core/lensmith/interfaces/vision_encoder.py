"""Vision encoder: pictures in, a grid of features out."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lensmith.interfaces.loading import Loading
from lensmith.interfaces.modes import hold_still, trains
from lensmith.interfaces.shapes import ParameterShape, VisionShape


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


def shape_code(module: nn.Module, *, prefix: str = "") -> str:
    """Python for the parameters of a module, to be put into the `shape` of a part's spec and generalised there.

    Args:
        module: the part at any size, built.
        prefix: before every name.

    Returns:
        An expression of `lensmith.linear`, `lensmith.norm` and `lensmith.ParameterShape`, one term a line, that equals
        `parameter_shapes(module)` but for the order of tensors.
    """
    shapes = {shape.name: shape for shape in parameter_shapes(module)}
    lines = []
    for name, shape in shapes.items():
        owner, _, last = name.rpartition(".")
        bias = shapes.get(f"{owner}.bias") if owner else None
        said = repr(f"{prefix}{owner}").replace("'", '"')
        without = "" if bias is not None else ", bias=False"
        if last == "bias" and (weight := shapes.get(f"{owner}.weight")) and (weight.linear or len(weight.shape) == 1):
            continue  # written with its weight
        if last == "weight" and owner and shape.linear:
            outputs, inputs = shape.shape
            lines.append(f"linear({said}, {inputs}, {outputs}{without})")
        elif last == "weight" and owner and len(shape.shape) == 1:
            lines.append(f"norm({said}, {shape.shape[0]}{without})")
        else:
            whole = repr(f"{prefix}{name}").replace("'", '"')
            linear = ", linear=True" if shape.linear else ""
            lines.append(f"(ParameterShape({whole}, {shape.shape}{linear}),)")
    return "(\n    " + "\n    + ".join(lines) + "\n)" if lines else "()"


def parameter_shapes(module: nn.Module) -> tuple[ParameterShape, ...]:
    """Every parameter of a module as shapes, the weights of `nn.Linear` that an adapter may wrap marked."""
    # nn.MultiheadAttention reads the weight of its output layer and never calls it: an adapter would do nothing.
    # The layer's own sizes, as a quantised weight is packed into other ones.
    linears = {
        f"{name}.weight".lstrip("."): (child.out_features, child.in_features)
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear) and not isinstance(child, NonDynamicallyQuantizableLinear)
    }
    return tuple(
        ParameterShape(name, linears.get(name, tuple(p.shape)), name in linears)
        for name, p in module.named_parameters()
    )
