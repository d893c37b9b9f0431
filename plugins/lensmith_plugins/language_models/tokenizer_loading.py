"""Read a tokenizer's data and its rules about leading spaces, BOS and special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import tokenizers
from sentencepiece import SentencePieceProcessor

from lensmith.checkpoints import is_hub_id
from lensmith_plugins.compat.quiet import quiet
from lensmith_plugins.language_models.gguf_header import is_gguf
from lensmith_plugins.language_models.hf_tokenizer import HfTokenizer, SpacePrefix
from lensmith_plugins.language_models.tokenizer_files import (
    find_file,
    open_sentencepiece,
    open_tokenizer,
    tokenizer_config,
)

Tokenization = Literal["auto", "sentencepiece", "transformers-4.31"]
"""By whose rules LLaMA's tokenizer writes; see `LlamaSpec.tokenization`."""


def load_tokenizer(
    source: str, *, parse_special_text: bool = False, tokenization: Tokenization = "auto"
) -> HfTokenizer:
    """The tokenizer of a folder, a hub id or a `.gguf` file.

    The rules for leading spaces and BOS are read from the tokenizer's own data. `tokenizer.json` says them; where
    there is only a SentencePiece model, `legacy` and `add_bos_token` in `tokenizer_config.json` do. Absent means true
    for both, as it did when such folders were written (transformers 5 reads it as false).

    Args:
        source: where it is.
        parse_special_text: whether a special token spelled out in a text becomes that token.
        tokenization: `auto` as above; `sentencepiece` reads `tokenizer.model` even where a `tokenizer.json` stands
            beside it (as `use_fast=False` of the original); `transformers-4.31` also restores the ids of that release.

    Raises:
        OSError: there is no tokenizer, or none with the file that `tokenization` asks for.
        ValueError: a tokenizer without an end token, or one that cannot be read.
    """
    slow = tokenization != "auto"
    with quiet(progress=is_hub_id(source)):
        loaded = open_sentencepiece(source) if slow else open_tokenizer(source)
    if loaded.eos_token_id is None:
        raise ValueError(f"the tokenizer of {source} has no end token; add `eos_token` to its tokenizer_config.json")
    begins = loaded("")["input_ids"][:1] == [loaded.bos_token_id]

    written = None if slow or is_gguf(source) else find_file(source, "tokenizer.json")
    data = _spelled(written.read_text(encoding="utf-8") if written else loaded.backend_tokenizer.to_str())
    prefix = _take_prefix(data)
    sentencepiece = None if written or is_gguf(source) else find_file(source, "tokenizer.model")
    if sentencepiece is not None:
        if prefix.scope != "never":
            config = tokenizer_config(source)
            legacy = config.get("legacy", True)
            cuts = not legacy and tokenization == "transformers-4.31"
            prefix = SpacePrefix("always" if legacy else "first", cuts=cuts)
            begins = config.get("add_bos_token", True)
        _sort_merges(data, sentencepiece)
    data |= {"post_processor": None, "truncation": None, "padding": None}
    _add_specials(data, loaded)
    specials = tuple(token["content"] for token in data["added_tokens"] if token["special"])
    _keep_apart(data, specials)

    pads = (loaded.pad_token_id, loaded.unk_token_id, loaded.eos_token_id)
    return HfTokenizer(
        backend=json.dumps(data, ensure_ascii=False),
        prefix=prefix,
        added={token["content"]: token["id"] for token in data["added_tokens"]},
        specials=specials,
        bos_id=loaded.bos_token_id if begins else None,
        eos_id=loaded.eos_token_id,
        eos_token=loaded.eos_token,
        pad_id=next(pad for pad in pads if pad is not None),
        source=source,
        parse_special_text=parse_special_text,
        unk_id=loaded.unk_token_id,
        chat_template=_chat_template(loaded),
        named=loaded.special_tokens_map,
    )


def _chat_template(loaded: Any) -> str | None:
    """The template for plain chats, where a tokenizer has several."""
    template = loaded.chat_template
    return template.get("default") if isinstance(template, dict) else template


def _spelled(text: str) -> dict[str, Any]:
    """A backend's JSON as today's library writes it: older files spell the same settings differently."""
    data: dict[str, Any] = json.loads(tokenizers.Tokenizer.from_str(text).to_str())
    return data


def _take_prefix(data: dict[str, Any]) -> SpacePrefix:
    """Remove from a backend's JSON whatever adds a leading mark, and say what it did."""
    prefix = SpacePrefix()
    normalizers = list(_flat(data["normalizer"], "normalizers"))
    if any(part["type"] == "Prepend" for part in normalizers):
        prefix = SpacePrefix("always")
        rest = [part for part in normalizers if part["type"] != "Prepend"]
        data["normalizer"] = {"type": "Sequence", "normalizers": rest} if rest else None
    for part in _flat(data["pre_tokenizer"], "pretokenizers"):
        if part["type"] == "Metaspace" and part["prepend_scheme"] != "never":
            prefix = SpacePrefix(part["prepend_scheme"], doubles=False)
            part["prepend_scheme"] = "never"
    return prefix


def _flat(part: dict[str, Any] | None, children: str) -> Iterator[dict[str, Any]]:
    """The members of nested sequences, in order."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for child in part[children]:
        yield from _flat(child, children)


def _sort_merges(data: dict[str, Any], model: Path) -> None:
    """Put merges in the order in which SentencePiece makes them: best score first, then as they stand.

    transformers 5 orders them by id instead, which puts LLaMA's runs of spaces first: `▁▁`, `y` for `▁`, `▁y`.
    """
    if "merges" not in data["model"]:
        return
    pieces = SentencePieceProcessor(str(model))
    scores = {pieces.id_to_piece(index): pieces.get_score(index) for index in range(pieces.get_piece_size())}
    data["model"]["merges"].sort(key=lambda pair: -scores.get("".join(pair), float("-inf")))


def _add_specials(data: dict[str, Any], loaded: Any) -> None:
    """Add special tokens that only `tokenizer_config.json` speaks of."""
    known = {token["id"] for token in data["added_tokens"]}
    for index, token in sorted(loaded.added_tokens_decoder.items()):
        if token.special and index not in known:
            flags = {"special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
            data["added_tokens"].append({"id": index, "content": token.content, **flags})


def _keep_apart(data: dict[str, Any], specials: tuple[str, ...]) -> None:
    """Drop merges that would rebuild a special token from text, so that data cannot end an answer."""
    if "merges" in data["model"]:
        data["model"]["merges"] = [pair for pair in data["model"]["merges"] if "".join(pair) not in specials]
