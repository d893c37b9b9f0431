"""Sizes of a `.gguf` file from its header. No torch here."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from lensmith.io.sizes import check_sizes
from lensmith_plugins.language_models.gguf_layout import check_header

_SIZES = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
}


def is_gguf(source: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint is one `.gguf` file."""
    return os.fspath(source).endswith(".gguf")


def gguf_config(file: str | os.PathLike[str]) -> dict[str, Any]:
    """The header of a `.gguf` file in the words of `config.json`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is not GGUF, or one without the sizes.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a .gguf file, a local folder or a hub id 'owner/name'")
    status = path.stat()
    return dict(_read(str(path), status.st_mtime_ns, status.st_size))


def gguf_tokens(file: str | os.PathLike[str]) -> list[str] | None:
    """The literals of a `.gguf` file's tokenizer by id; None where it holds no tokenizer."""
    tokens: list[str] | None = _field(file, "tokenizer.ggml.tokens")
    return tokens


def gguf_chat_template(file: str | os.PathLike[str]) -> str | None:
    """The chat template of a `.gguf` file, as Jinja."""
    template: str | None = _field(file, "tokenizer.chat_template")
    return template


def _field(file: str | os.PathLike[str], key: str) -> Any:
    field = _open(os.fspath(file)).fields.get(key)
    return None if field is None else field.contents()


def _open(path: str) -> Any:
    from gguf import GGUFReader

    check_header(path)
    try:
        return GGUFReader(path)
    except Exception as error:  # of a file that is cut off or not what its beginning says: any
        raise ValueError(f"{path} is not a GGUF file: {type(error).__name__}: {error}") from error


@functools.lru_cache(maxsize=8)
def _read(path: str, modified: int, size: int) -> dict[str, Any]:
    """Read a header; cached, because the reader walks through the whole vocabulary."""
    reader = _open(path)

    def value(key: str) -> Any:
        field = reader.fields.get(key)
        return None if field is None else field.contents()

    architecture = value("general.architecture")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = {"model_type": architecture, "tie_word_embeddings": "output.weight" not in tensors}
    config |= {name: value(f"{architecture}.{key}") for name, key in _SIZES.items()}
    if architecture == "llama":
        # For other architectures this is the rotated part of a head, not its width.
        config["head_dim"] = value("llama.rope.dimension_count")
    if config["vocab_size"] is None and "token_embd.weight" in tensors:
        config["vocab_size"] = int(tensors["token_embd.weight"].shape[1])
    config = {name: entry for name, entry in config.items() if entry is not None}
    check_sizes(config, path)
    return config
