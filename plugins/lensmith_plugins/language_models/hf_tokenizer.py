"""The tokenizer of a Hugging Face model, with every space where the model was trained to see it.

SentencePiece models write a word differently at the start of a text than inside one: `▁USER` or `USER`. Whether a
stretch of text gets that leading mark depends on what stands before it and on how old the tokenizer is. So the
backend used here never adds a mark of its own; `HfTokenizer` puts a space in front where one is due.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tokenizers

from lensmith import Pieces, Tokenizer
from lensmith_plugins.language_models.gguf_header import is_gguf
from lensmith_plugins.language_models.quiet import quiet
from lensmith_plugins.language_models.tokenizer_files import TOKENIZER_FILES, find_file, open_tokenizer

MARK = "▁"
"""How SentencePiece writes a space."""

Before = Literal["start", "image", "token"]


@dataclass(frozen=True)
class SpacePrefix:
    """When a stretch of text begins with a space that nobody wrote.

    Args:
        scope: `first`: at the start of a text (and after a picture, where a new text starts); `always`: after a
            special token too; `never`.
        doubles: whether a text that begins with a space gets another one.
    """

    scope: Literal["never", "first", "always"] = "never"
    doubles: bool = True

    def due(self, text: str, after: Before) -> bool:
        """Whether `text` gets the space."""
        if self.scope == "never" or (self.scope == "first" and after == "token"):
            return False
        return self.doubles or not text.startswith((" ", MARK))


@dataclass
class HfTokenizer(Tokenizer):
    """A `tokenizers` backend behind Lensmith's interface. Picklable and safe to fork.

    Args:
        backend: the backend's JSON, without prefix, template or truncation.
        prefix: when a stretch begins with a space of its own.
        added: ids of the tokens beside the vocabulary by their literals: the special ones and a model's own.
        specials: the literals of those that are special.
        bos_id, eos_id, eos_token, pad_id: see `Tokenizer`.
        source: folder, hub id or `.gguf` file that it came from.
        parse_special_text: whether a special token spelled out in a text becomes that token.
    """

    backend: str = field(repr=False)
    prefix: SpacePrefix
    added: dict[str, int] = field(repr=False)
    specials: tuple[str, ...] = field(repr=False)
    bos_id: int | None
    eos_id: int
    eos_token: str
    pad_id: int
    source: str
    parse_special_text: bool = False

    def __post_init__(self) -> None:
        self._loaded: tokenizers.Tokenizer | None = None
        literals = sorted(self.specials, key=len, reverse=True)
        self._literal = re.compile("|".join(map(re.escape, literals)) or r"(?!)")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def encode(self, text: str, *, after: Before) -> Pieces:
        """See `Tokenizer.encode`."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, end, special in self._stretches(text):
            if special is not None:
                ids.append(special)
                offsets.append((start, end))
                after = "token"
                continue
            added = self.prefix.due(text[start:end], after)
            encoding = self._backend().encode(" " * added + text[start:end], add_special_tokens=False)
            ids += encoding.ids
            offsets += [(max(a - added, 0) + start, max(b - added, 0) + start) for a, b in encoding.offsets]
        return Pieces(tuple(ids), tuple(offsets))

    def token_id(self, token: str) -> int | None:
        """See `Tokenizer.token_id`."""
        return self.added.get(token)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return str(self._backend().decode(list(ids), skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        """Write the tokenizer as it came into a folder, for `load_tokenizer` and plain transformers.

        Raises:
            FileNotFoundError: the place it came from is not there any more.
        """
        if is_gguf(self.source):
            with quiet():
                open_tokenizer(self.source).save_pretrained(folder)
            return
        found = {name: path for name in TOKENIZER_FILES if (path := find_file(self.source, name))}
        if not found:
            raise FileNotFoundError(f"the tokenizer came from {self.source}, where its files are not any more")
        for name, path in found.items():
            # Not the permissions: a model may be published read-only, what is saved here need not be.
            shutil.copyfile(path, folder / name)

    def _backend(self) -> tokenizers.Tokenizer:
        if self._loaded is None:
            self._loaded = tokenizers.Tokenizer.from_str(self.backend)
            self._loaded.encode_special_tokens = True
        return self._loaded

    def _stretches(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """Start, end and, for a special token, id."""
        start = 0
        if self.parse_special_text:
            for found in self._literal.finditer(text):
                if found.start() > start:
                    yield start, found.start(), None
                yield found.start(), found.end(), self.added[found.group()]
                start = found.end()
        if start < len(text):
            yield start, len(text), None
