"""The shape half of every part: what is known before a weight exists. No torch here.

Letters, the same everywhere: B rows, V views (tiles), N vision tokens a view, W vision width, M tokens out of
the connector, T text positions, D language-model width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

Size = tuple[int, int]
"""(height, width) in pixels or (rows, columns) in tokens: always vertical first."""

Box = tuple[int, int, int, int]
"""(top, left, bottom, right), the last two one past the end; in pixels or in tokens."""


@dataclass(frozen=True)
class ParameterShape:
    """One trainable tensor of a part.

    Args:
        name: as `named_parameters()` of the part says it.
        shape: its dimensions.
        linear: whether it is the weight of an `nn.Linear` that an adapter may wrap.
        head: whether it is the weight of the output head, which is adapted only where it is named.
        added: how many of its rows are of tokens that the spec adds to the vocabulary.
    """

    name: str
    shape: tuple[int, ...]
    linear: bool = False
    head: bool = False
    added: int = 0

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


Parameters = tuple[ParameterShape, ...]


def linear(name: str, inputs: int, outputs: int, *, bias: bool = True, adaptable: bool = True) -> Parameters:
    """The tensors of an `nn.Linear(inputs, outputs)`."""
    weight = ParameterShape(f"{name}.weight", (outputs, inputs), linear=adaptable)
    return (weight, ParameterShape(f"{name}.bias", (outputs,))) if bias else (weight,)


def norm(name: str, width: int, *, bias: bool = True) -> Parameters:
    """The tensors of a LayerNorm (with `bias`) or an RMSNorm (without)."""
    weight = ParameterShape(f"{name}.weight", (width,))
    return (weight, ParameterShape(f"{name}.bias", (width,))) if bias else (weight,)


@dataclass(frozen=True)
class VisionShape:
    """What a vision encoder takes and gives.

    Args:
        image_size: (height, width) in pixels of one view.
        grid: (rows, columns) of the tokens that lie on the picture.
        width: W, features a token.
        extra_tokens: tokens beside the grid that are kept (CLS), always first.
        parameters: every tensor that is built; blocks past the selected layer are not.
        flops_per_view: multiply-adds times two of one forward pass of one view; 0 where unknown.
        channels: of the pixels that the preprocessing makes; encoders that see a view in several ways stack them.
    """

    image_size: Size
    grid: Size
    width: int
    extra_tokens: int = 0
    parameters: Parameters = ()
    flops_per_view: int = 0
    channels: int = 3

    @property
    def tokens(self) -> int:
        """N, tokens a view."""
        return self.grid[0] * self.grid[1] + self.extra_tokens


@dataclass(frozen=True)
class ConnectorShape:
    """What a connector makes of one view's tokens.

    Args:
        tokens: M, tokens out for N tokens in.
        width: D, the width it writes.
        grid: (rows, columns) of the tokens out, row by row, where each still lies on the picture (a smaller grid
            where they are merged); None where they do not, and then no splitter can stitch views together.
        parameters: every tensor.
        reads_instruction: whether the question's words change the tokens (see `Connector.forward`).
    """

    tokens: int
    width: int
    grid: Size | None
    parameters: Parameters = ()
    reads_instruction: bool = False


@dataclass(frozen=True)
class TileLayout:
    """How one picture becomes views and how many positions it takes. Pure geometry.

    Args:
        views: V, how many views the splitter cuts.
        tokens: positions in the language model for the whole picture, row ends and the like included.
        image_size: (height, width) of the original picture.
        canvas: (height, width) in pixels that the tiles cover together, without a global view.
        tiles: (rows, columns) of the tile grid.
        view_size: (height, width) in pixels of one view, where the splitter must know it to cut.
        grid: (rows, columns) of one view's tokens out of the connector, where tiles are stitched to one map.
        kept: the part of the stitched map that becomes positions, in tokens; the rest is padding.
    """

    views: int
    tokens: int
    image_size: Size
    canvas: Size
    tiles: Size = (1, 1)
    view_size: Size | None = None
    grid: Size | None = None
    kept: Box | None = None


@dataclass(frozen=True)
class LanguageShape:
    """What a language model takes and gives.

    Args:
        width: D.
        vocabulary: rows of the output head.
        context_length: positions that it was made for.
        layers, heads, kv_heads, head_width, intermediate: the sizes that the cost model needs.
        parameters: every tensor.
        head: name of the output head's weight; equal to an entry of `parameters`, or to the embedding's when tied.
        added: how many of the vocabulary's rows are of tokens that the spec adds.
    """

    width: int
    vocabulary: int
    context_length: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    intermediate: int
    parameters: Parameters = field(default=(), repr=False)
    head: str = ""
    added: int = 0

    def marked(self, parameters: Parameters) -> Parameters:
        """Tensors of the model, with the output head marked as such and no longer as linear, and how many of their rows
        are of added tokens."""
        tables = {(self.vocabulary, self.width)}
        found = tuple(replace(p, linear=False, head=p.linear) if p.name == self.head else p for p in parameters)
        return tuple(replace(p, added=self.added) if p.shape in tables else p for p in found)
