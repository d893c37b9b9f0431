"""Tensors that a file holds against those that a module wants, told so that a reader sees all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_NUMBER = re.compile(r"\d+")
LARGEST = 1e18
"""Larger weights cannot be squared in fp32, so that every norm of them is infinite."""


def misfits(wanted: Mapping[str, Sequence[int]], stored: Mapping[str, Sequence[int]]) -> list[str]:
    """What is missing, unexpected and of another shape, one line each; empty where everything fits.

    Args:
        wanted, stored: shapes by name.
    """
    problems = []
    if missing := wanted.keys() - stored.keys():
        problems.append(f"missing {_told(missing)}")
    if unexpected := stored.keys() - wanted.keys():
        problems.append(f"unexpected {_told(unexpected)}")
    shared = wanted.keys() & stored.keys()
    wrong = {
        name: f" (stored {_shape(stored[name])}, wanted {_shape(wanted[name])})"
        for name in shared
        if tuple(wanted[name]) != tuple(stored[name])
    }
    if wrong:
        problems.append(f"of another shape {_told(wrong, wrong)}")
    return problems


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the floating tensors that hold NaN, an infinity or numbers above `LARGEST`.

    Minus infinity alone is let through: it is how a mask among buffers says "not this".
    """
    import torch

    found = []
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        values = tensor.detach()
        if values.dtype.itemsize < 2:  # fp8 has no aminmax
            values = values.to(torch.float32)
        least, most = (float(value) for value in values.aminmax())
        if not (most <= LARGEST and (least >= -LARGEST or least == float("-inf"))):
            found.append(name)
    return found


def told_names(names: Sequence[str], limit: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _told(names: Iterable[str], notes: Mapping[str, str] | None = None) -> str:
    """How many, and every name; those that differ only in a layer's number as one, e.g. `layers.{0-31}.q.weight`."""
    names = sorted(names)
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        pattern = _NUMBER.sub("#", name)
        alike = pattern if pattern.count("#") == 1 else name
        groups.setdefault((alike, (notes or {}).get(name, "")), []).append(name)
    told = [_merged(alike, members, note) for (alike, note), members in groups.items()]
    return f"{len(names)}: {', '.join(told)}"


def _merged(pattern: str, names: list[str], note: str) -> str:
    if len(names) < 3:
        return (note + ", ").join(names) + note
    numbers = sorted(int(_NUMBER.findall(name)[0]) for name in names)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    ranges = ",".join(f"{run[0]}-{run[1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return pattern.replace("#", "{" + ranges + "}") + note


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape) or "a number"
