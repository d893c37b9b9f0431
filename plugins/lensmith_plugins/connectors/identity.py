"""No mapping."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lensmith import Connector, ConnectorShape, VisionShape
from lensmith_plugins.connectors.specs import IdentitySpec


class IdentityConnector(Connector):
    """Hands features on, for an encoder that is as wide as the language model."""

    def __init__(self, shape: ConnectorShape) -> None:
        super().__init__()
        self.shape = shape

    @classmethod
    def build(cls, spec: IdentitySpec, encoder: VisionShape, width: int) -> IdentityConnector:
        """Build; raises IncompatibleParts where the widths differ."""
        return cls(spec.shape(encoder, width))

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        """The features themselves: (V, N, D)."""
        return features
