"""The layers; imported when the connector is built."""

from torch import Tensor, nn

import lensmith


class LdpConnector(lensmith.Connector):
    def __init__(self, spec, encoder, width):
        super().__init__()
        self.shape = spec.shape(encoder, width)
        self.grid = encoder.grid
        self.layers = nn.Sequential(nn.Linear(encoder.width, width), nn.GELU(), nn.Linear(width, width))
        self.pool = nn.AvgPool2d(spec.factor)
        self.places = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)

    @classmethod
    def build(cls, spec, encoder, width):
        return cls(spec, encoder, width)

    def forward(self, features: Tensor, instruction=None) -> Tensor:
        """Connect views: (V, N, W) to (V, M, D), M = N / factor²."""
        maps = self.layers(features).transpose(1, 2).unflatten(2, self.grid)  # (V, D, rows, columns)
        smaller = self.pool(maps)
        return (smaller + self.places(smaller)).flatten(2).transpose(1, 2)
