"""The spec of the Perceiver resampler. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lensmith import (
    ConnectorShape,
    ConnectorSpec,
    IncompatibleParts,
    Parameters,
    ParameterShape,
    VisionShape,
    linear,
    norm,
)
from lensmith.interfaces.bounds import Sizes

Count = Sizes


class PerceiverSpec(ConnectorSpec):
    """Learned latents that look at the features layer by layer, and are then projected: any N tokens become M."""

    latents: Count = 64
    """M, tokens out of a view. Default 64."""

    depth: Count = 6
    """Layers, each of attention and feed-forward. Default 6."""

    heads: Count = 16
    """Attention heads. Default 16."""

    head_width: Count | None = None
    """Width of a head's queries, keys and values. Default null: W / heads."""

    ff_mult: Count = 4
    """Inner width of the feed-forward layers, in W. Default 4."""

    activation: Literal["squared_relu", "relu", "gelu"] = "squared_relu"
    """Within the feed-forward layers. Default squared_relu."""

    @classmethod
    def tiny(cls, folder: Path) -> PerceiverSpec:
        """See `PartSpec.tiny`."""
        return cls(latents=5, depth=2, heads=2, head_width=4, ff_mult=2)

    def width_of_a_head(self, encoder: VisionShape) -> int:
        """`head_width` or its default.

        Raises:
            IncompatibleParts: W is not a multiple of `heads`, and `head_width` is not given.
        """
        if self.head_width is not None:
            return self.head_width
        if encoder.width % self.heads:
            raise IncompatibleParts(
                f"the perceiver connector cannot share the vision encoder's width {encoder.width} among {self.heads}"
                " heads; set `head_width`, or `heads` to a divisor of it"
            )
        return encoder.width // self.heads

    def shape(self, encoder: VisionShape, width: int) -> ConnectorShape:
        """M latents, which lie on no grid.

        Raises:
            IncompatibleParts: see `width_of_a_head`.
        """
        wide, inner = encoder.width, self.heads * self.width_of_a_head(encoder)
        tensors: Parameters = (ParameterShape("latents", (self.latents, wide)),)
        for layer in range(self.depth):
            attention, feed_forward = f"layers.{layer}.attention", f"layers.{layer}.feed_forward"
            tensors += norm(f"{attention}.feature_norm", wide)
            tensors += norm(f"{attention}.latent_norm", wide)
            for projection in ("query", "key", "value"):
                tensors += linear(f"{attention}.{projection}", wide, inner, bias=False)
            tensors += linear(f"{attention}.output", inner, wide, bias=False)
            tensors += norm(f"{feed_forward}.norm", wide)
            tensors += linear(f"{feed_forward}.up", wide, self.ff_mult * wide, bias=False)
            tensors += linear(f"{feed_forward}.down", self.ff_mult * wide, wide, bias=False)
        tensors += norm("norm", wide)
        tensors += linear("projection", wide, width)
        return ConnectorShape(tokens=self.latents, width=width, grid=None, parameters=tensors)
