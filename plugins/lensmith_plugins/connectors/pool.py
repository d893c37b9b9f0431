"""Average pooling on the grid, then a multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lensmith import ConnectorShape, Size, VisionShape
from lensmith_plugins.connectors.grid_specs import PoolSpec
from lensmith_plugins.connectors.mlp import LayersConnector


class PoolConnector(LayersConnector):
    """Averages equal blocks of neighbouring tokens, then maps the averages through the layers.

    The method is DeCo's (Yao et al. 2024, arXiv 2405.20985): 2-D average pooling of the encoder's features, without
    weights, before the projector.
    """

    def __init__(self, spec: PoolSpec, encoder: VisionShape, shape: ConnectorShape) -> None:
        super().__init__(spec, spec.inputs(encoder), shape)
        self.grid: Size = encoder.grid
        self.block: Size = spec.block(encoder)

    @classmethod
    def build(cls, spec: PoolSpec, encoder: VisionShape, width: int) -> PoolConnector:
        """Build with torch's default initialisation; raises IncompatibleParts where the grid cannot be divided."""
        return cls(spec, encoder, spec.shape(encoder, width))

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        """Connect views: (V, N, W) to (V, M, D)."""
        views, _, width = features.shape
        (rows, columns), (high, wide) = self.grid, self.block
        blocks = features.reshape(views, rows // high, high, columns // wide, wide, width)
        return self.layers(blocks.mean(dim=(2, 4)).flatten(1, 2))
