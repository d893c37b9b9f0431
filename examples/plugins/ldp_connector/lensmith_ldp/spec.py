"""What a spec file may say of the connector, and the sizes that follow. Every command imports this: no torch here."""

from typing import Annotated

from pydantic import Field

from lensmith import ConnectorShape, ConnectorSpec, IncompatibleParts, ParameterShape, VisionShape, linear


class LdpSpec(ConnectorSpec):
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
