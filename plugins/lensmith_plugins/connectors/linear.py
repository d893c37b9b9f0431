"""One linear layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lensmith import Connector, ConnectorShape, VisionShape
from lensmith_plugins.connectors.specs import LinearSpec
from lensmith_plugins.connectors.weights import fill, read_projector


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

    def load_pretrained(self, spec: LinearSpec) -> Sequence[str]:
        """Load LLaVA's projector where the spec names one (see `Connector.load_pretrained`)."""
        if spec.checkpoint is not None:
            cure = "a linear projector of these widths is needed"
            fill(self, read_projector(spec.checkpoint), str(spec.checkpoint), cure)
        return ()

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        """Connect views: (V, N, W) to (V, N, D)."""
        return F.linear(features, self.weight, self.bias)
