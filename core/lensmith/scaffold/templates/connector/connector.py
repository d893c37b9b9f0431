"""The layers. Imported when the connector is built."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lensmith import Connector, VisionShape

from .spec import ExamplePartSpec


class ExamplePartConnector(Connector):
    """See `ExamplePartSpec`."""

    def __init__(self, spec: ExamplePartSpec, encoder: VisionShape, width: int) -> None:
        super().__init__()
        self.shape = spec.shape(encoder, width)
        layers: list[nn.Module] = [nn.Linear(encoder.width, width)]
        for _ in range(1, spec.depth):
            layers += [nn.GELU(), nn.Linear(width, width)]
        self.layers = nn.Sequential(*layers)

    @classmethod
    def build(cls, spec: ExamplePartSpec, encoder: VisionShape, width: int) -> ExamplePartConnector:
        """Fresh weights between an encoder and a language model of width D."""
        return cls(spec, encoder, width)

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        """Connect views: features (V, N, W) to (V, M, D), here M = N."""
        tokens: Tensor = self.layers(features)
        return tokens
