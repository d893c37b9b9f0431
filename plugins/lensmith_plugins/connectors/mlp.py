"""A multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lensmith import Connector, ConnectorShape, VisionShape
from lensmith_plugins.connectors.specs import MlpSpec

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


class MlpConnector(Connector):
    """Maps each token through linear layers, W to D to … to D.

    With two layers and GELU it is LLaVA-1.5's (Liu et al. 2023, arXiv 2310.03744). Its layers are called `0`, `2`
    and so on, as in LLaVA's `mm_projector`; the activations between have no tensors. An input norm is `norm`.
    """

    def __init__(self, spec: MlpSpec, inputs: int, shape: ConnectorShape) -> None:
        super().__init__()
        self.shape = shape
        self.inputs = inputs
        self.output_scale = spec.output_scale
        self.norm = nn.LayerNorm(inputs) if spec.input_norm else None
        layers: list[nn.Module] = [nn.Linear(inputs, shape.width)]
        for _ in range(1, spec.depth):
            layers += [_ACTIVATIONS[spec.activation](), nn.Linear(shape.width, shape.width)]
        for place, layer in enumerate(layers):
            self.add_module(str(place), layer)
        self.places = len(layers)

    @classmethod
    def build(cls, spec: MlpSpec, encoder: VisionShape, width: int) -> MlpConnector:
        """Build with torch's default initialisation."""
        return cls(spec, encoder.width, spec.shape(encoder, width))

    @torch.no_grad()
    def calibrate(self, embeddings: Tensor) -> None:
        """With `output_scale: embeddings`, scale the last layer's fresh weight and bias, once and for good.

        Outputs for unit-variance inputs then have the standard deviation of all entries of the token embeddings
        (vocabulary, D). It is measured on random inputs of a fixed seed, which leaves the global one alone.
        """
        if self.output_scale == "none":
            return
        last = self.get_submodule(str(self.places - 1))
        assert isinstance(last, nn.Linear)
        generator = torch.Generator("cpu").manual_seed(0)
        probe = torch.randn(1, 512, self.inputs, generator=generator, device="cpu").to(last.weight)
        factor = embeddings.detach().std().float() / self(probe).std().float()
        for parameter in (last.weight, last.bias):
            parameter.mul_(factor.to(parameter))

    def forward(self, features: Tensor, instruction: Tensor | None = None) -> Tensor:
        """Connect views: (V, N, W) to (V, N, D)."""
        hidden = features if self.norm is None else self.norm(features)
        for place in range(self.places):
            hidden = self.get_submodule(str(place))(hidden)
        return hidden
