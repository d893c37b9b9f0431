"""The specs of the connectors that map each token on its own. No torch here."""

from __future__ import annotations

import abc
import os
from typing import Annotated, Literal

from pydantic import Field

from lensmith import (
    ConnectorShape,
    ConnectorSpec,
    IncompatibleParts,
    Parameters,
    ParameterShape,
    SpecPath,
    VisionShape,
    linear,
    norm,
)


class TokenwiseSpec(ConnectorSpec, abc.ABC):
    """A connector that makes one token of each token, in the same place."""

    def shape(self, encoder: VisionShape, width: int) -> ConnectorShape:
        """As many tokens as come in; the grid is kept unless tokens lie beside it (CLS).

        Raises:
            ValueError: the checkpoint is a folder.
        """
        for source in self.sources().values():
            if os.path.isdir(source):  # noqa: PTH112 - pathlib's own raises where a name is too long
                raise ValueError(
                    f"`checkpoint` is the folder {source}; name the file of the projector in it (mm_projector.bin, or a"
                    " .safetensors file)"
                )
        return ConnectorShape(
            tokens=encoder.tokens,
            width=width,
            grid=None if encoder.extra_tokens else encoder.grid,
            parameters=self.parameters(encoder.width, width),
        )

    @abc.abstractmethod
    def parameters(self, inputs: int, width: int) -> Parameters:
        """Every tensor between encoder width W (`inputs`) and language-model width D (`width`)."""


class LayersSpec(ConnectorSpec, abc.ABC):
    """A connector that ends in linear layers with activations between them: W to D, then D to D."""

    depth: Annotated[int, Field(ge=1, le=64)] = 2
    """Number of linear layers, at least 1. Default 2."""

    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu"
    """Between the layers. Default gelu, the exact one; gelu_tanh is its approximation."""

    input_norm: bool = False
    """Layer-normalise what goes into the first layer, with learned scale and shift. Default false."""

    output_scale: Literal["none", "embeddings"] = "none"
    """How fresh weights are scaled. `embeddings` scales the last layer so that outputs for unit-variance inputs
    spread like the language model's token embeddings; nothing is added to the model. Default none: torch's own
    initialisation."""

    def parameters(self, inputs: int, width: int) -> Parameters:
        """The layers by their places in a sequence (`0`, `2`, …), the names that LLaVA gives them."""
        tensors = norm("norm", inputs) if self.input_norm else ()
        tensors += linear("0", inputs, width)
        for layer in range(1, self.depth):
            tensors += linear(str(2 * layer), width, width)
        return tensors


class LinearSpec(TokenwiseSpec):
    """One linear layer, W to D."""

    checkpoint: SpecPath | None = None
    """LLaVA's trained projector: its `mm_projector.bin`, or a .safetensors file; `mm_projector.` in the names and
    what stands before it are left away. Default null: fresh weights."""

    def sources(self) -> dict[str, str]:
        """The checkpoint."""
        return {"checkpoint": str(self.checkpoint)} if self.checkpoint is not None else {}

    def parameters(self, inputs: int, width: int) -> Parameters:
        """Weight and bias, the names that LLaVA gives them."""
        return ParameterShape("weight", (width, inputs)), ParameterShape("bias", (width,))


class MlpSpec(LayersSpec, TokenwiseSpec):
    """Linear layers with activations between them: W to D, then D to D."""

    checkpoint: SpecPath | None = None
    """LLaVA's trained projector: its `mm_projector.bin`, or a .safetensors file; `mm_projector.` in the names and
    what stands before it are left away. Its `mlpNx_gelu` is `depth: N`. Default null: fresh weights."""

    def sources(self) -> dict[str, str]:
        """The checkpoint."""
        return {"checkpoint": str(self.checkpoint)} if self.checkpoint is not None else {}


class IdentitySpec(TokenwiseSpec):
    """Nothing at all, between parts of equal width."""

    def shape(self, encoder: VisionShape, width: int) -> ConnectorShape:
        """As `TokenwiseSpec.shape`.

        Raises:
            IncompatibleParts: W is not D.
        """
        if encoder.width != width:
            raise IncompatibleParts(
                f"the identity connector cannot join a vision encoder of width {encoder.width} to a language model"
                f" of width {width}; use a linear or mlp connector"
            )
        return super().shape(encoder, width)

    def parameters(self, inputs: int, width: int) -> Parameters:
        """None."""
        return ()
