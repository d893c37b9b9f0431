"""The Perceiver resampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensmith import Connector, ConnectorShape, VisionShape
from lensmith_plugins.connectors.perceiver_spec import PerceiverSpec


class Attention(nn.Module):
    """Latents look at the features and at themselves: queries of latents, keys and values of both together."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.feature_norm = nn.LayerNorm(width)
        self.latent_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key = nn.Linear(width, heads * head_width, bias=False)
        self.value = nn.Linear(width, heads * head_width, bias=False)
        self.output = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        """Attend: features (V, N, W) and latents (V, M, W) to (V, M, W)."""
        latents = self.latent_norm(latents)
        both = torch.cat([self.feature_norm(features), latents], dim=1)  # (V, N + M, W)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (V, heads, …, head width)
            for part in (self.query(latents), self.key(both), self.value(both))
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        merged: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return merged


class FeedForward(nn.Module):
    """Two linear layers behind a norm."""

    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, latents: Tensor) -> Tensor:
        """Map each latent: (V, M, W) to (V, M, W)."""
        mapped: Tensor = self.down(self.activation(self.up(self.norm(latents))))
        return mapped


class Layer(nn.Module):
    """Attention and feed-forward, each added to the latents."""

    def __init__(self, spec: PerceiverSpec, encoder: VisionShape) -> None:
        super().__init__()
        self.attention = Attention(encoder.width, spec.heads, spec.width_of_a_head(encoder))
        self.feed_forward = FeedForward(encoder.width, spec.ff_mult * encoder.width, spec.activation)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        """Features (V, N, W) and latents (V, M, W) to latents (V, M, W)."""
        latents = latents + self.attention(features, latents)
        latents = latents + self.feed_forward(latents)
        return latents


class PerceiverConnector(Connector):
    """Any number of tokens to M latents: Flamingo's resampler (Alayrac et al. 2022, arXiv 2204.14198, section 3.1.1).

    Layers as in its appendix: pre-norm, no biases, keys and values of features and latents together, squared ReLU.
    Its time embeddings, which tell frames of a video apart, are left out. The latents are as wide as the encoder (W);
    after the last layer come a norm and a linear projection to D, which Flamingo does not need, as it hands them to
    cross-attention.
    """

    def __init__(self, spec: PerceiverSpec, encoder: VisionShape, shape: ConnectorShape) -> None:
        super().__init__()
        self.shape = shape
        self.latents = nn.Parameter(0.02 * torch.randn(spec.latents, encoder.width))
        self.layers = nn.ModuleList(Layer(spec, encoder) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(encoder.width)
        self.projection = nn.Linear(encoder.width, shape.width)

    @classmethod
    def build(cls, spec: PerceiverSpec, encoder: VisionShape, width: int) -> PerceiverConnector:
        """Build with torch's default initialisation, latents normal with deviation 0.02."""
        return cls(spec, encoder, spec.shape(encoder, width))

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        """Connect views: (V, N, W) to (V, M, D)."""
        latents = self.latents.expand(len(features), -1, -1)
        for layer in self.layers:
            latents = layer(features, latents)
        connected: Tensor = self.projection(self.norm(latents))
        return connected


def _squared_relu(inputs: Tensor) -> Tensor:
    return F.relu(inputs).square()


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"squared_relu": _squared_relu, "relu": F.relu, "gelu": F.gelu}
