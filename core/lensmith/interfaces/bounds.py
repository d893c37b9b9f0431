"""Upper bounds of numbers in a spec: what is past them is a slip of the keyboard, and would take days or the memory."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def at_most(limit: int, reason: str) -> Any:
    """What to put into an `Annotated` number so that a larger one is refused with the reason.

    Args:
        limit: the largest number that is taken.
        reason: after the limit in the message, e.g. `a rank past the width of a layer adds nothing`.
    """

    def hold(value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and limit < value < float("inf"):
            raise ValueError(f"should be at most {limit:,}: {reason}")
        return value

    return BeforeValidator(hold)


Positions = Annotated[int, Field(ge=1, le=2**26), at_most(2**26, "no language model reads as many positions")]
"""Positions of a row."""
Sizes = Annotated[
    int, Field(ge=1, le=2**16), at_most(2**16, "it counts layers, channels, queries or ranks, and no model has as many")
]
"""A size of a part: layers, heads, channels, queries, ranks."""
Side = Annotated[
    int, Field(ge=1, le=2**14), at_most(2**14, "it is a side in pixels or tokens, and memory goes with its square")
]
"""Side of a square in pixels, patches or tokens."""
Seed = Annotated[
    int,
    Field(ge=0, lt=2**64),
    at_most(2**64 - 1, "generators of random numbers take 64 bits"),
]
"""Start of random numbers."""
