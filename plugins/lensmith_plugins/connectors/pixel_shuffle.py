"""Space to depth, then a multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lensmith import ConnectorShape, Size, VisionShape
from lensmith_plugins.connectors.grid_specs import PixelShuffleSpec
from lensmith_plugins.connectors.mlp import LayersConnector


class PixelShuffleConnector(LayersConnector):
    """Lays r x r neighbouring tokens side by side, normalises them, and maps them through the layers.

    The order is InternVL's (Chen et al. 2024, arXiv 2404.16821, section 3.1 and its code): pixel shuffle, layer norm
    over r² W, linear r² W to D, GELU, linear D to D. Within a new token the old ones stand row by row.
    """

    def __init__(self, spec: PixelShuffleSpec, encoder: VisionShape, shape: ConnectorShape) -> None:
        super().__init__(spec, spec.inputs(encoder), shape)
        self.grid: Size = encoder.grid
        self.factor = spec.factor

    @classmethod
    def build(cls, spec: PixelShuffleSpec, encoder: VisionShape, width: int) -> PixelShuffleConnector:
        """Build with torch's default initialisation; raises IncompatibleParts where the grid cannot be divided."""
        return cls(spec, encoder, spec.shape(encoder, width))

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        """Connect views: (V, N, W) to (V, N / r², D)."""
        views, _, width = features.shape
        (rows, columns), r = self.grid, self.factor
        blocks = features.reshape(views, rows // r, r, columns // r, r, width).transpose(2, 3)
        return self.layers(blocks.reshape(views, -1, r * r * width))
