"""What a tokenizer's files declare, without loading it: special tokens, ids, template. No torch, no transformers."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensmith import ChatText, Pieces
from lensmith.interfaces.text import DeclaredTokenizer
from lensmith_plugins.language_models.chat_template import render_chat
from lensmith_plugins.language_models.declared_template import declared_template
from lensmith_plugins.language_models.gguf_header import is_gguf
from lensmith_plugins.language_models.vocabulary import VOCABULARIES, base_ids, files_json, read_vocabulary

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass
class FileTokenizer(DeclaredTokenizer):
    """A tokenizer that knows its tokens and its template, and cannot tokenise.

    Args:
        eos_token: the end token, empty where the files name none.
        named: special tokens by their roles.
        added: ids of the tokens beside the vocabulary, by their literals.
        specials: the literals of those that are special, longest first.
        text_ids: one more than the largest id that text can become.
        template: its chat template.
    """

    eos_token: str
    named: Mapping[str, str]
    added: Mapping[str, int]
    specials: Sequence[str]
    text_ids: int
    template: str | None = field(repr=False, default=None)
    bos_id: int | None = None
    eos_id: int = -1
    pad_id: int = -1

    def encode(self, text: str, *, after: str) -> Pieces:
        """Not from files alone."""
        raise NotImplementedError("a tokenizer that is only declared cannot tokenise")

    def decode(self, ids: Sequence[int]) -> str:
        """Not from files alone."""
        raise NotImplementedError("a tokenizer that is only declared cannot decode")

    def save(self, folder: Path) -> None:
        """Not from files alone."""
        raise NotImplementedError("a tokenizer that is only declared cannot be saved")

    def token_id(self, token: str) -> int | None:
        """See `Tokenizer.token_id`."""
        return self.added.get(token)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        reply: bool,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        date: datetime.date | None = None,
    ) -> ChatText:
        """See `Tokenizer.chat`."""
        chosen = template if template is not None else self.template
        if chosen is None:
            return super().chat(messages, reply=reply)
        return render_chat(chosen, messages, reply=reply, variables={**self.named, **(variables or {})}, date=date)

    def split_special(self, text: str) -> list[tuple[str, str | None]]:
        """See `Tokenizer.split_special`."""
        pattern = re.compile("(" + "|".join(map(re.escape, self.specials)) + ")") if self.specials else None
        pieces = pattern.split(text) if pattern else [text]
        return [(piece, piece if piece in self.specials else None) for piece in pieces if piece]


def has_tokenizer(source: str) -> bool:
    """Whether a folder holds a tokenizer's vocabulary."""
    return any((Path(source) / name).is_file() for name in VOCABULARIES)


def declared_tokenizer(source: str, add_tokens: Sequence[str] = ()) -> FileTokenizer | None:
    """The tokenizer of a folder on this machine; None where its files do not say enough without being loaded.

    Args:
        source: the folder.
        add_tokens: special tokens that a spec adds.

    Raises:
        ValueError: files that are no JSON, or hold no tokens where tokens belong.
    """
    folder = Path(source)
    if is_gguf(source) or not folder.is_dir():
        return None
    if not has_tokenizer(source):
        raise FileNotFoundError(
            f"{folder} holds no tokenizer (none of {', '.join(VOCABULARIES[:3])}, …); set"
            " `model.language_model.tokenizer` to a folder that does"
        )
    base, vocabulary = base_ids(folder), read_vocabulary(source)
    if base is None or vocabulary is None:
        return None
    config, map_ = files_json(folder / "tokenizer_config.json"), files_json(folder / "special_tokens_map.json")
    named = {role: text for role in _NAMES if (text := _literal(config.get(role, map_.get(role))))}
    entries = [(entry.get("content"), index, entry.get("special", False)) for index, entry in _added(folder, config)]
    added = {str(literal): index for literal, index, _ in entries}
    added |= {literal: base[literal] for literal in named.values() if literal in base and literal not in added}
    following = vocabulary.length
    for literal in dict.fromkeys(named.values()):  # what transformers does with special tokens that have no id
        if literal not in added:
            added[literal], following = following, following + 1
    specials = {str(literal) for literal, _, special in entries if special}
    specials |= {literal for literal in (*named.values(), *add_tokens) if literal in added or literal in add_tokens}
    for token in add_tokens:
        if token not in added:
            added[token] = base.get(token, following)
            following += added[token] == following
    spoken = [index for literal, index in {**base, **added}.items() if literal not in specials]
    return FileTokenizer(
        eos_token=named.get("eos_token", ""),
        named=named,
        added=added,
        specials=sorted(specials, key=len, reverse=True),
        text_ids=max(spoken, default=-1) + 1,
        template=declared_template(source),
        eos_id=added.get(named.get("eos_token", ""), -1),
    )


def _added(folder: Path, config: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    """Ids and entries of the tokens beside the vocabulary, of all files that list some."""
    found: dict[int, Mapping[str, Any]] = {}
    for literal, index in files_json(folder / "added_tokens.json").items():
        found[int(index)] = {"content": literal}
    for entry in files_json(folder / "tokenizer.json").get("added_tokens") or ():
        found[int(entry["id"])] = entry
    for index, entry in (config.get("added_tokens_decoder") or {}).items():
        found.setdefault(int(index), entry)
    return sorted(found.items())


def _literal(value: Any) -> str:
    """A token of a config, which may stand there with its flags."""
    found = value.get("content") if isinstance(value, Mapping) else value
    return found if isinstance(found, str) else ""
