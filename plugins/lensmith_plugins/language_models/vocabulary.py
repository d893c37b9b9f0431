"""What a tokenizer's files say of its ids, without the tokenizer, and how they are told of more. No torch here."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmith.io.json import read_object
from lensmith_plugins.language_models.gguf_header import gguf_tokens, is_gguf

ADDED = "lensmith_added_tokens"
"""The key of `config.json` and `tokenizer_config.json` under which `add_tokens` that they hold are listed, so that a
saved model is not taken for one that still lacks them."""

VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "tiktoken.model",
)
"""Files, one of which a tokenizer's folder holds."""
_PLAIN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}


@dataclass(frozen=True)
class Vocabulary:
    """The ids of a tokenizer.

    Args:
        length: one more than its last id.
        tokens: every literal that is one id.
        appended: those that Lensmith added, as the files tell.
    """

    length: int
    tokens: frozenset[str]
    appended: tuple[str, ...] = ()

    def length_with(self, tokens: list[str]) -> int:
        """Rows that these special tokens need, once they are there too; 0 where they are the tokenizer's own."""
        missing = [token for token in tokens if token not in self.tokens]
        return self.length + len(missing) if missing or set(tokens) & set(self.appended) else 0


def read_vocabulary(source: str) -> Vocabulary | None:
    """The ids of a tokenizer on this machine; None for one that is not here.

    Args:
        source: a folder or a `.gguf` file.

    Raises:
        ValueError: files that are not what their names say.
    """
    if is_gguf(source):
        tokens = gguf_tokens(source) if Path(source).is_file() else None
        return None if tokens is None else Vocabulary(len(tokens), frozenset(tokens))
    folder = Path(source)
    base = base_ids(folder)
    if base is None:
        return None
    ids = dict(base)
    config = files_json(folder / "tokenizer_config.json")
    ids |= {entry["content"]: int(token) for token, entry in config.get("added_tokens_decoder", {}).items()}
    ids |= files_json(folder / "added_tokens.json")
    return Vocabulary(max(ids.values(), default=-1) + 1, frozenset(ids), tuple(config.get(ADDED, ())))


def write_added_tokens(folder: Path, tokens: Mapping[str, int]) -> None:
    """Add special tokens to a tokenizer's files, for Lensmith and plain transformers to read.

    Args:
        folder: holds the files of the tokenizer without them, or with them already.
        tokens: ids by literal.
    """
    file = folder / "tokenizer_config.json"
    config = files_json(file)
    entries = {str(index): {"content": token, **_PLAIN} for token, index in tokens.items()}
    config["added_tokens_decoder"] = {**config.get("added_tokens_decoder", {}), **entries}
    config[ADDED] = list(tokens)
    _write(file, config)
    if data := files_json(folder / "tokenizer.json"):
        known = {entry["id"] for entry in data["added_tokens"]}
        data["added_tokens"] += [
            {"id": index, "content": token, **_PLAIN} for token, index in tokens.items() if index not in known
        ]
        _write(folder / "tokenizer.json", data)


def forget_code(folder: Path) -> None:
    """Take out of a copied tokenizer's files that it has code of its own (`auto_map`), which is never run."""
    config = files_json(file := folder / "tokenizer_config.json")
    if config.pop("auto_map", None) is not None:
        _write(file, config)


def base_ids(folder: Path) -> dict[str, int] | None:
    """Ids by token of the file that holds the vocabulary; None without one."""
    if (folder / "tokenizer.json").is_file():
        data = files_json(folder / "tokenizer.json")
        stored = data["model"]["vocab"]  # a list of (token, score) where the model is Unigram
        ids = dict(stored) if isinstance(stored, dict) else {token: n for n, (token, _) in enumerate(stored)}
        return ids | {token["content"]: token["id"] for token in data.get("added_tokens", ())}
    if (folder / "tokenizer.model").is_file():
        from sentencepiece import SentencePieceProcessor

        pieces = SentencePieceProcessor(str(folder / "tokenizer.model"))
        return {pieces.id_to_piece(n): n for n in range(pieces.get_piece_size())}
    if (folder / "vocab.json").is_file():
        return files_json(folder / "vocab.json")
    return None


def files_json(file: Path) -> dict[str, Any]:
    """What a tokenizer's file holds; empty where it is not there.

    Raises:
        ValueError: it is no JSON object.
    """
    if not file.is_file():
        return {}
    status = file.stat()
    return dict(_read(file, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=8)
def _read(file: Path, modified: int, size: int) -> dict[str, Any]:
    """Read a file; cached, since a vocabulary is long and several ask for it."""
    return read_object(file)


def _write(file: Path, data: Any) -> None:
    file.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
