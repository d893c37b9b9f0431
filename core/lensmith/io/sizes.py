"""Sizes that a stranger's config or index may name: within what can be built, and within its own folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

_LAYERS, _WIDTH, _HEADS, _ROWS, _LENGTH = 4096, 1 << 20, 1 << 14, 1 << 24, 1 << 31
_WHOLE = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), _LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "word_embed_proj_dim", "projection_dim"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size"), _WIDTH << 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), _HEADS),
    **dict.fromkeys(("num_channels", "patch_size"), 1 << 12),
    **dict.fromkeys(("vocab_size",), _ROWS),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), _LENGTH),
}
"""Sizes by their names in `config.json`, each with the largest that is taken: more than any model has."""
_OPTIONAL = {**dict.fromkeys(("num_key_value_heads", "head_dim"), _HEADS), "n_inner": _WIDTH << 2}
_POSITIVE = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta", "norm_eps")
_NESTED = ("text_config", "vision_config", "qformer_config", "vision_config_dict", "text_config_dict")


def check_sizes(config: Mapping[str, Any], source: str, section: str = "") -> None:
    """Refuse a model's config whose sizes no model can have, before anything is laid out by them.

    Args:
        config: as decoded from `config.json`.
        source: the file, for messages.
        section: the dotted path to `config` within the file.

    Raises:
        ValueError: naming file, field and value.
    """
    for key, value in config.items():
        field = f"{section}{key}"
        if key in _WHOLE or (key in _OPTIONAL and value is not None):
            most = _WHOLE.get(key) or _OPTIONAL[key]
            if type(value) is not int or value < 1:
                raise ValueError(f"{source}: {field} must be a whole number above 0, not {_short(value)}")
            if value > most:
                raise ValueError(f"{source}: {field} is {_short(value)}; the largest that can be built is {most:,}")
        elif key in _POSITIVE and value is not None:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value <= 0:
                raise ValueError(f"{source}: {field} must be a number above 0, not {_short(value)}")
        elif key in _NESTED and value is not None:
            if not isinstance(value, Mapping):
                raise ValueError(f"{source}: {field} must hold a model's sizes as an object, not {_short(value)}")
            check_sizes(value, source, f"{field}.")
    heads, keys = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(keys, int) and heads % keys:
        raise ValueError(
            f"{source}: {section}num_attention_heads {heads} is not a multiple of num_key_value_heads {keys}"
        )
    width = config.get("hidden_size")
    divided = config.get("model_type") in _DIVIDED and config.get("head_dim") is None
    if divided and isinstance(width, int) and isinstance(heads, int) and width % heads:
        raise ValueError(f"{source}: {section}hidden_size {width} is not a multiple of num_attention_heads {heads}")


_DIVIDED = ("llama", "mistral", "qwen2", "granite", "phi3", "opt", "phi")
"""Architectures whose heads share the width where no `head_dim` is given."""


def check_entries(names: Iterable[Any], source: str) -> list[str]:
    """The files that an index names, once each lies in the index's own folder by its name.

    Args:
        names: what the index gives.
        source: the index, for messages.

    Raises:
        ValueError: an entry that is no text, an absolute path, or one that leads out of the folder.
    """
    found = []
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{source}: weight_map names {_short(name)}, which is no file's name")
        parts = PurePosixPath(name).parts
        outside = name.startswith("/") or ".." in parts or PureWindowsPath(name).drive or "\\" in name or "\0" in name
        if outside:
            raise ValueError(
                f"{source}: weight_map names {_short(name)}, which lies outside its folder; it is not read"
            )
        found.append(name)
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
