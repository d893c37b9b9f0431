"""A fast tokenizer behind the interface, built here from a few words: what conversations are held against."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lensmith.interfaces.text import ChatText, ConversationError, Pieces, Tokenizer
from lensmith.testing.tiny import CHAT_TEMPLATE, END, tiny_tokenizer


class FastTokenizer(Tokenizer):
    """`tiny_tokenizer` with a chat template.

    Args:
        specials: special tokens that it must know besides its own.
    """

    bos_id = None

    def __init__(self, specials: Sequence[str] = ()) -> None:
        self.fast: Any = tiny_tokenizer(specials, chat_template=CHAT_TEMPLATE)
        self.eos_token = str(self.fast.eos_token)
        self.eos_id = int(self.fast.eos_token_id)
        self.pad_id = int(self.fast.convert_tokens_to_ids(END))
        self.specials = tuple(token.content for token in self.fast.added_tokens_decoder.values())
        self._special = re.compile("(" + "|".join(map(re.escape, sorted(self.specials, key=len, reverse=True))) + ")")
        self._plain: Any = tiny_tokenizer(specials).backend_tokenizer
        self._plain.encode_special_tokens = True

    def encode(self, text: str, *, after: Literal["start", "image", "token"]) -> Pieces:
        """See `Tokenizer.encode`; nothing depends on what stands before."""
        found = self._plain.encode(text, add_special_tokens=False)
        return Pieces(tuple(found.ids), tuple(found.offsets))

    def token_id(self, token: str) -> int | None:
        """See `Tokenizer.token_id`."""
        return int(self.fast.convert_tokens_to_ids(token)) if token in self.specials else None

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return str(self.fast.decode(list(ids), skip_special_tokens=True))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        reply: bool,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        date: datetime.date | None = None,
    ) -> ChatText:
        """See `Tokenizer.chat`; answers are never marked."""
        try:
            text = self.fast.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=reply,
                **(variables or {}),
            )
        except Exception as error:
            raise ConversationError(f"the chat template refuses these messages: {error}") from error
        return ChatText(str(text))

    def split_special(self, text: str) -> list[tuple[str, str | None]]:
        """See `Tokenizer.split_special`."""
        return [(piece, piece if piece in self.specials else None) for piece in self._special.split(text) if piece]

    def save(self, folder: Path) -> None:
        """See `Tokenizer.save`."""
        self.fast.save_pretrained(folder)
