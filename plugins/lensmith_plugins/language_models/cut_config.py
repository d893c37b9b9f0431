"""The `layers` setting on a config: the first blocks only. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What architectures call the number of their blocks."""


def with_layers(config: Mapping[str, Any], layers: int | None, source: str, default: int | None = None) -> Any:
    """A `config.json` with the first `layers` blocks; lists that have an entry for each block are cut too.

    Args:
        config: its keys.
        layers: how many blocks to keep; None for all.
        source: where it is from, for messages.
        default: blocks of its architecture where the config does not say.

    Raises:
        ValueError: there are fewer blocks.
    """
    if layers is None:
        return dict(config)
    if isinstance(nested := config.get("text_config"), Mapping):
        return {**config, "text_config": with_layers(nested, layers, source, default)}
    key = next((name for name in _COUNTS if config.get(name) is not None), _COUNTS[0])
    there = config.get(key, default)
    if isinstance(there, int):
        refuse_more(layers, there, source)
    if layers == there:
        return dict(config)
    return {**config, **per_layer(config, there, layers), key: layers}


def per_layer(values: Mapping[str, Any], there: int | None, layers: int) -> dict[str, list[Any]]:
    """The first entries of the lists that have one for each of `there` blocks, e.g. `layer_types`."""
    return {
        name: list(value[:layers])
        for name, value in values.items()
        if "layer" in name and isinstance(value, (list, tuple)) and len(value) == there
    }


def refuse_more(layers: int, there: int, source: str) -> None:
    """Refuse more blocks than there are.

    Raises:
        ValueError: naming both numbers.
    """
    if layers > there:
        raise ValueError(
            f"`layers` is {layers} and {source} has {there}; set it to {there} or fewer, or leave it out for all"
        )
