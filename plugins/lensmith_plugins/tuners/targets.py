"""The linear layers that a spec names for adapters. No torch here."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from lensmith import Parameters, ParameterShape

ALL = "all"
"""Every linear layer of a part; of the language model all but the output head."""


def as_targets(value: Any) -> Any:
    """A list without a part is of the language model; one name is short for a list of one."""
    if isinstance(value, (list, tuple, str)):
        value = {"language_model": value}
    if isinstance(value, dict):
        return {part: [names] if isinstance(names, str) else names for part, names in value.items()}
    return value


def matching(part: str, targets: Sequence[str], tensors: Parameters) -> Parameters:
    """The weights of the linear layers whose names end in one of `targets`; the output head where it is named.

    Args:
        part: its name, for messages.
        targets: ends of layer names, e.g. `q_proj`, `self_attn.q_proj`, whole names, or `all`.
        tensors: of the part, unqualified, the output head not marked as linear.

    Raises:
        ValueError: a target that is no linear layer, with those there are.
    """
    linears = tuple(t for t in tensors if t.linear)
    if ALL in targets:
        if not linears:
            raise ValueError(f"the {part.replace('_', ' ')} has no linear layer that an adapter could go on")
        return linears + _named_head(targets, tensors)
    linears += tuple(t for t in tensors if t.head)
    chosen: set[str] = set()
    leaves = sorted({layer(t).rpartition(".")[2] for t in linears})
    for target in targets:
        found = {t.name for t in linears if layer(t) == target or layer(t).endswith(f".{target}")}
        if not found:
            close = difflib.get_close_matches(target, leaves, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            tied = " An output head that is tied to the embeddings is none." if "head" in target else ""
            raise ValueError(
                f"target {target!r} is no linear layer of the {part.replace('_', ' ')}.{hint}{tied}"
                f" There are: {', '.join(leaves) or 'none'}."
            )
        chosen |= found
    return tuple(t for t in linears if t.name in chosen)


def _named_head(targets: Sequence[str], tensors: Parameters) -> Parameters:
    """The output head, where it is named beside `all`."""
    return tuple(t for t in tensors if t.head and {layer(t), layer(t).rpartition(".")[2]} & set(targets))


def layer(weight: ParameterShape) -> str:
    """The layer that a weight belongs to."""
    return weight.name.removesuffix(".weight")
