"""A multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lensmith import Connector, ConnectorShape, VisionShape
from lensmith_plugins.connectors.specs import LayersSpec, MlpSpec
from lensmith_plugins.connectors.weights import fill, read_projector

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


class LayersConnector(Connector):
    """Ends in linear layers, W to D to … to D.

    They are called `0`, `2` and so on, as in LLaVA's `mm_projector`; the activations between have no tensors. An
    input norm is `norm`.
    """

    def __init__(self, spec: LayersSpec, inputs: int, shape: ConnectorShape) -> None:
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
        factor = embeddings.detach().std().float() / self.layers(probe).std().float()
        for parameter in (last.weight, last.bias):
            parameter.mul_(factor.to(parameter))

    def layers(self, features: Tensor) -> Tensor:
        """Map each token: (…, inputs) to (…, D)."""
        hidden = features if self.norm is None else self.norm(features)
        for place in range(self.places):
            hidden = self.get_submodule(str(place))(hidden)
        return hidden


class MlpConnector(LayersConnector):
    """Maps each token through the layers. With two and GELU it is LLaVA-1.5's (Liu et al. 2023, arXiv 2310.03744)."""

    @classmethod
    def build(cls, spec: MlpSpec, encoder: VisionShape, width: int) -> MlpConnector:
        """Build with torch's default initialisation."""
        return cls(spec, encoder.width, spec.shape(encoder, width))

    def load_pretrained(self, spec: MlpSpec) -> Sequence[str]:
        """Load LLaVA's projector where the spec names one (see `Connector.load_pretrained`)."""
        if spec.checkpoint is not None:
            cure = "LLaVA's mlpNx_gelu is `depth: N` without `input_norm`, between the same widths"
            fill(self, read_projector(spec.checkpoint), str(spec.checkpoint), cure)
        return ()

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        """Connect views: (V, N, W) to (V, N, D)."""
        return self.layers(features)
