"""What moves in transformers: names of arguments and methods that decoders take, and whether they are obeyed."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

from torch import nn

from lensmith.tested import LibraryError

_CACHES = ("cache", "past_key_values")
"""The keyword for keys and values of earlier positions, newest name first (renamed in 5.24)."""
_CHECKPOINTING = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
"""Renamed in 5.22."""


@lru_cache(maxsize=64)
def _cache_name(decoder: Any) -> str:
    names = inspect.signature(decoder.forward).parameters
    for name in _CACHES:
        if name in names:
            return name
    raise LibraryError(
        "transformers", f"{decoder.__name__} takes no cache of keys and values by the names {', '.join(_CACHES)}"
    )


def cache_keyword(decoder: nn.Module) -> str:
    """The name under which a decoder takes its cache.

    Raises:
        LibraryError: it takes none by any name that is known.
    """
    kind: Any = type(decoder)
    return _cache_name(kind)


def given_cache(keywords: dict[str, Any]) -> Any:
    """The cache among a decoder's keywords, by whatever name; None where there is none."""
    return next((keywords[name] for name in _CACHES if keywords.get(name) is not None), None)


def with_cache(decoder: nn.Module, keywords: dict[str, Any], cache: Any) -> dict[str, Any]:
    """The keywords with this cache in place of any other, under the one name that the decoder takes."""
    return {name: value for name, value in keywords.items() if name not in _CACHES} | {cache_keyword(decoder): cache}


def require_held(cache: Any, layers: int, length: int, what: str) -> None:
    """After a decoder's pass: see that each layer appended to the cache that it was given.

    Args:
        cache: what the decoder was given.
        layers: of the decoder.
        length: positions that every layer must hold now.
        what: is lost where they do not, for the message.

    Raises:
        LibraryError: a layer went past the cache.
    """
    found = [int(cache.get_seq_length(number)) for number in range(layers)]
    if wrong := [number for number, held in enumerate(found) if held != length]:
        raise LibraryError(
            "transformers",
            f"layer {wrong[0]} holds keys of {found[wrong[0]]} positions where it was given {length}: {what}",
        )


def checkpoint_activations(network: Any) -> bool:
    """Have a transformers model recompute its blocks' activations in the backward pass, where it can.

    Not the re-entrant kind: it would need inputs that require a gradient, which frozen embeddings do not.

    Returns:
        Whether it does now.

    Raises:
        LibraryError: it has no method for that by any name that is known, or the method does nothing.
    """
    if not getattr(network, "supports_gradient_checkpointing", False):
        return False
    method = next((getattr(network, name) for name in _CHECKPOINTING if hasattr(network, name)), None)
    if method is None:
        raise LibraryError("transformers", f"{type(network).__name__} has none of {', '.join(_CHECKPOINTING)}")
    method({"use_reentrant": False})
    flags = ("gradient_checkpointing", "activation_checkpointing")
    if not any(getattr(module, flag, False) for module in network.modules() for flag in flags):
        raise LibraryError("transformers", f"activation checkpointing was not switched on in {type(network).__name__}")
    return True
