"""MobileVLM V2's connector, for Lensmith. This module is imported by every command: no torch here."""

from typing import Annotated

from pydantic import Field

import lensmith
from lensmith import Component, ConnectorShape, IncompatibleParts, Kind, ParameterShape, VisionShape, linear

api_version = 1


class LdpSpec(lensmith.ConnectorSpec):
    """Two linear layers, averages of neighbouring tokens, and a convolution that tells where each one lies."""

    factor: Annotated[int, Field(ge=1)] = 2
    """How many tokens a side are averaged to one: N tokens become N / factor². Default 2."""

    def shape(self, encoder: VisionShape, width: int) -> ConnectorShape:
        rows, columns = encoder.grid
        if encoder.extra_tokens or rows % self.factor or columns % self.factor:
            raise IncompatibleParts(
                f"the ldp connector cannot divide the vision encoder's {rows} x {columns} tokens (and"
                f" {encoder.extra_tokens} beside them) by factor {self.factor}; choose a factor that divides both"
                " sides, and leave a class token out (`cls_token: false`)"
            )
        grid = (rows // self.factor, columns // self.factor)
        parameters = linear("layers.0", encoder.width, width) + linear("layers.2", width, width)
        parameters += ParameterShape("places.weight", (width, 1, 3, 3)), ParameterShape("places.bias", (width,))
        return ConnectorShape(grid[0] * grid[1], width, grid, parameters)


@lensmith.hookimpl
def lensmith_components() -> list[Component]:
    return [
        Component(
            kind=Kind.CONNECTOR,
            name="ldp",
            spec=LdpSpec,
            implementation="lensmith_ldp.connector:LdpConnector",
            summary="layers, averages of neighbours and their places (MobileVLM V2)",
            paper="MobileVLM V2 (Chu et al. 2024, arXiv 2402.03766), LDPv2",
            example="name: ldp\nfactor: 2\n",
        )
    ]
