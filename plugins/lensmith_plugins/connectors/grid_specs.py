"""The specs of the connectors that make the grid of tokens smaller and keep it. No torch here."""

from __future__ import annotations

import abc
import math

from pydantic import model_validator

from lensmith import ConnectorShape, IncompatibleParts, Size, VisionShape
from lensmith.interfaces.bounds import Side
from lensmith_plugins.connectors.specs import LayersSpec


class SmallerGridSpec(LayersSpec, abc.ABC):
    """A connector that makes one token of each block of neighbouring tokens, then maps it through layers."""

    @abc.abstractmethod
    def block(self, encoder: VisionShape) -> Size:
        """(rows, columns) of tokens that become one.

        Raises:
            IncompatibleParts: the encoder's grid cannot be divided so; names the sizes that can.
        """

    def inputs(self, encoder: VisionShape) -> int:
        """Width of what goes into the first layer."""
        return encoder.width

    def shape(self, encoder: VisionShape, width: int) -> ConnectorShape:
        """The grid is kept, smaller.

        Raises:
            IncompatibleParts: the grid cannot be divided, or tokens lie beside it (CLS).
        """
        if encoder.extra_tokens:
            raise IncompatibleParts(
                f"the connector merges neighbours on the grid of {encoder.grid[0]} x {encoder.grid[1]} tokens, but the"
                f" vision encoder gives {encoder.extra_tokens} more beside it; leave them out of the encoder's output"
                " (for a class token, `cls_token: false`)"
            )
        rows, columns = self.block(encoder)
        grid = (encoder.grid[0] // rows, encoder.grid[1] // columns)
        return ConnectorShape(
            tokens=grid[0] * grid[1],
            width=width,
            grid=grid,
            parameters=self.parameters(self.inputs(encoder), width),
        )


class PixelShuffleSpec(SmallerGridSpec):
    """Neighbouring tokens side by side in one wider token (space to depth), a layer norm, then an MLP."""

    factor: Side = 2
    """How many tokens a side become one: N tokens become N / factor², factor² times as wide. Default 2."""

    input_norm: bool = True
    """Layer-normalise the widened tokens before the first layer, with learned scale and shift. Default true."""

    def block(self, encoder: VisionShape) -> Size:
        """`factor` in both directions (see `SmallerGridSpec.block`)."""
        return _divided(encoder, self.factor, "the pixel_shuffle connector")

    def inputs(self, encoder: VisionShape) -> int:
        """factor² W."""
        return encoder.width * self.factor**2


class PoolSpec(SmallerGridSpec):
    """Averages of neighbouring tokens, then an MLP."""

    factor: Side | None = None
    """How many tokens a side are averaged to one. Default null: 2, or as `grid` says."""

    grid: tuple[Side, Side] | None = None
    """(rows, columns) of tokens that are left, in place of `factor`. Default null."""

    @model_validator(mode="after")
    def _one_size(self) -> PoolSpec:
        if self.factor is not None and self.grid is not None:
            raise ValueError("give a factor or a grid, not both")
        return self

    def block(self, encoder: VisionShape) -> Size:
        """What `grid` or `factor` leaves of the encoder's grid (see `SmallerGridSpec.block`)."""
        if self.grid is None:
            return _divided(encoder, self.factor or 2, "the pool connector")
        (rows, columns), (target_rows, target_columns) = encoder.grid, self.grid
        if rows % target_rows or columns % target_columns:
            raise IncompatibleParts(
                f"the pool connector cannot average the vision encoder's grid of {rows} x {columns} tokens to"
                f" {target_rows} x {target_columns}, as blocks must be equal; set `grid` to rows of"
                f" {_any(_divisors(rows))} and columns of {_any(_divisors(columns))}"
            )
        return rows // target_rows, columns // target_columns


def _divided(encoder: VisionShape, factor: int, connector: str) -> Size:
    rows, columns = encoder.grid
    if rows % factor or columns % factor:
        possible = _any(_divisors(math.gcd(rows, columns)))
        raise IncompatibleParts(
            f"{connector} cannot divide the vision encoder's grid of {rows} x {columns} tokens by factor {factor};"
            f" set `factor` to {possible}, or choose an encoder whose grid it divides"
        )
    return factor, factor


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _any(numbers: list[int]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} or {last}" if others else last
