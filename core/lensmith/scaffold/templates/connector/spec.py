"""What a spec file may say of the connector, and the sizes that follow. Every command imports this: no torch here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensmith import ConnectorShape, ConnectorSpec, Parameters, VisionShape, linear


class ExamplePartSpec(ConnectorSpec):
    """Linear layers with activations between them, for each token on its own."""

    depth: Annotated[int, Field(ge=1, le=8)] = 2
    """Number of linear layers, 1 to 8. Default 2."""

    def shape(self, encoder: VisionShape, width: int) -> ConnectorShape:
        """As many tokens as come in; the grid is kept unless tokens lie beside it (CLS).

        Raise `lensmith.IncompatibleParts` here for an encoder that the connector cannot work with.
        """
        parameters: Parameters = ()
        for layer in range(self.depth):
            parameters += linear(f"layers.{2 * layer}", width if layer else encoder.width, width)
        return ConnectorShape(
            tokens=encoder.tokens,
            width=width,
            grid=None if encoder.extra_tokens else encoder.grid,
            parameters=parameters,
        )
