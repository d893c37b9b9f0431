"""The tokenizer of a Hugging Face model, with every space where the model was trained to see it.

SentencePiece models write a word differently at the start of a text than inside one: `▁USER` or `USER`. Whether a
stretch of text gets that leading mark depends on what stands before it and on how old the tokenizer is. So the
backend used here never adds a mark of its own; `HfTokenizer` puts a space in front where one is due.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import tokenizers

from lensmith import ChatText, Pieces, Tokenizer
from lensmith_plugins.compat.quiet import quiet
from lensmith_plugins.language_models.chat_template import render_chat
from lensmith_plugins.language_models.gguf_header import is_gguf
from lensmith_plugins.language_models.tokenizer_files import TOKENIZER_FILES, find_file, open_tokenizer
from lensmith_plugins.language_models.vocabulary import forget_code, write_added_tokens

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
        cuts: whether, with `first`, a text after a special token is tokenised with the space and loses it again: its
            first word is then cut as it is inside a sentence (`US`, `ER`). So did transformers 4.31.
    """

    scope: Literal["never", "first", "always"] = "never"
    doubles: bool = True
    cuts: bool = False

    def due(self, text: str, after: Before) -> bool:
        """Whether `text` gets the space."""
        if self.scope == "never" or (self.scope == "first" and after == "token" and not self.cuts):
            return False
        return self.doubles or not text.startswith((" ", MARK))

    def taken_back(self, text: str, after: Before) -> bool:
        """Whether the space that `text` got is cut off its first piece."""
        return self.cuts and after == "token" and not text.startswith((" ", MARK))


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
        unk_id: stands for a piece that is not in the vocabulary.
        chat_template: its own Jinja template.
        named: its special tokens by their roles (`bos_token`, …), as templates name them.
        appended: the literals of those that a spec added; `save` writes them into its files.
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
    unk_id: int | None = None
    chat_template: str | None = field(default=None, repr=False)
    named: Mapping[str, str] = field(default_factory=dict, repr=False)
    appended: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._loaded: tokenizers.Tokenizer | None = None
        literals = sorted(self.specials, key=len, reverse=True)
        self._literal = re.compile("|".join(map(re.escape, literals)) or r"(?!)")
        self._written: re.Pattern[str] | None = None
        self._special_ids = frozenset(self.added[literal] for literal in self.specials)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_written": None}

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
            found = list(zip(encoding.ids, encoding.offsets, strict=True))
            if added and self.prefix.taken_back(text[start:end], after):
                found[:1] = self._cut(encoding.tokens[0], encoding.offsets[0])
            placed = [(token, (max(a - added, 0) + start, max(b - added, 0) + start)) for token, (a, b) in found]
            if self._special_ids.isdisjoint(encoding.ids):
                ids += [token for token, _ in placed]
                offsets += [span for _, span in placed]
                continue
            for token, (a, b) in placed:
                spelled = self._spelled(token, text[a:b])
                ids += [one for one, _ in spelled] if spelled else [token]
                offsets += [(a + c, a + d) for _, (c, d) in spelled] if spelled else [(a, b)]
        return Pieces(tuple(ids), tuple(offsets))

    def _spelled(self, token: int, written: str) -> list[tuple[int, tuple[int, int]]]:
        """A text that its tokenizer took for a special token, in pieces that are none; empty for any other piece.

        Unigram and word vocabularies hold their special tokens as pieces like any other, and a normaliser may make
        one of other characters. The text is cut where no token goes across, and taken letter by letter where that
        does not help. What stands for unknown characters is no such piece, but where its own literal is written.
        """
        unknown = token == self.unk_id and self._literal_of(token) not in written
        if token not in self._special_ids or unknown or not written.strip():
            return []
        for cuts in ((len(written) - len(written.lstrip()) + 1,), range(1, len(written))):
            pieces = []
            for begin, end in pairwise((0, *cuts, len(written))):
                part = self._backend().encode(written[begin:end], add_special_tokens=False)
                pieces += [(i, (a + begin, b + begin)) for i, (a, b) in zip(part.ids, part.offsets, strict=True)]
            if not any(i in self._special_ids and i != self.unk_id for i, _ in pieces):
                return pieces
        return [(i, span) for i, span in pieces if i not in self._special_ids or i == self.unk_id]

    def _literal_of(self, token: int) -> str:
        """How a single id is written."""
        return str(self._backend().id_to_token(token))

    def _cut(self, piece: str, offsets: tuple[int, int]) -> list[tuple[int, tuple[int, int]]]:
        """A piece without its leading space: nothing, another piece, or the unknown one where there is no such."""
        if piece == MARK or not piece.startswith(MARK):
            return []
        known = self._backend().token_to_id(piece.removeprefix(MARK))
        return [(known if known is not None else self.unk_id or 0, offsets)]

    def fingerprint(self) -> str:
        """See `Tokenizer.fingerprint`: all that it is made of, but for where that came from."""
        parts = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "source"}
        return hashlib.sha256(repr(sorted(parts.items())).encode("utf-8", "surrogatepass")).hexdigest()

    def token_id(self, token: str) -> int | None:
        """See `Tokenizer.token_id`."""
        return self.added.get(token)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return str(self._backend().decode(list(ids), skip_special_tokens=True))

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
        chosen = template if template is not None else self.chat_template
        if chosen is None:
            return super().chat(messages, reply=reply)
        return render_chat(chosen, messages, reply=reply, variables={**self.named, **(variables or {})}, date=date)

    def split_special(self, text: str) -> list[tuple[str, str | None]]:
        """See `Tokenizer.split_special`. Space that a special token swallows is of its piece."""
        pieces: list[tuple[str, str | None]] = []
        start = 0
        for found in self._swallowing().finditer(text):
            if found.start() > start:
                pieces.append((text[start : found.start()], None))
            pieces.append((found.group(), next(token for token in found.groups() if token is not None)))
            start = found.end()
        if start < len(text):
            pieces.append((text[start:], None))
        return pieces

    def _swallowing(self) -> re.Pattern[str]:
        """Special tokens with the space around them that they take in, each a group."""
        if self._written is None:
            flags = {token["content"]: token for token in json.loads(self.backend)["added_tokens"]}
            choices = [
                (r"\s*" if flags[token]["lstrip"] else "")
                + f"({re.escape(token)})"
                + (r"\s*" if flags[token]["rstrip"] else "")
                for token in sorted(self.specials, key=len, reverse=True)
            ]
            self._written = re.compile("|".join(choices) or r"(?!)")
        return self._written

    def save(self, folder: Path) -> None:
        """Write the tokenizer as it came into a folder, for `load_tokenizer` and plain transformers.

        Raises:
            FileNotFoundError: the place it came from is not there any more.
        """
        self._copy(folder)
        if self.appended:
            write_added_tokens(folder, {token: self.added[token] for token in self.appended})

    def _copy(self, folder: Path) -> None:
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
        forget_code(folder)

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
