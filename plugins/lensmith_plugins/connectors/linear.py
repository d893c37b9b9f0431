"""One linear layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lensmith import Connector, ConnectorShape, VisionShape
from lensmith_plugins.connectors.specs import LinearSpec


class LinearConnector(Connector):
    """Projects each token, W to D: LLaVA's connector (Liu et al. 2023, arXiv 2304.08485).

    Its tensors are called `weight` and `bias`, as in LLaVA's `mm_projector`.
    """

    def __init__(self, inputs: int, shape: ConnectorShape) -> None:
        super().__init__()
        self.shape = shape
        fresh = nn.Linear(inputs, shape.width)
        self.weight, self.bias = fresh.weight, fresh.bias

    @classmethod
    def build(cls, spec: LinearSpec, encoder: VisionShape, width: int) -> LinearConnector:
        """Build with torch's default initialisation."""
        return cls(encoder.width, spec.shape(encoder, width))

    def forward(self, features: Tensor, instruction: Tensor | None = None) -> Tensor:
        """Connect views: (V, N, W) to (V, N, D)."""
        return F.linear(features, self.weight, self.bias)
