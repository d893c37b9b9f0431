"""The tokenizer, behind what data and answers need of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer

from lensmith import Pieces, Tokenizer


class ExamplePartTokenizer(Tokenizer):
    """A fast tokenizer of transformers.

    Args:
        source: folder or hub id.
    """

    def __init__(self, source: str) -> None:
        self.fast: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        # Set it to self.fast.bos_token_id for a model that was trained with a BOS before every row.
        self.bos_id = None
        self.eos_id, self.eos_token = self.fast.eos_token_id, self.fast.eos_token
        self.pad_id = self.eos_id if self.fast.pad_token_id is None else self.fast.pad_token_id

    def encode(self, text: str, *, after: Literal["start", "image", "token"]) -> Pieces:
        """Ids of a stretch of text and the characters that each covers; special tokens in it stay text."""
        found = self.fast(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
        return Pieces(tuple(found["input_ids"]), tuple(map(tuple, found["offset_mapping"])))

    def token_id(self, token: str) -> int | None:
        """The id of a special token, or None."""
        found: int | None = self.fast.get_added_vocab().get(token)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self.fast.decode(list(ids), skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        """Write it to a folder."""
        self.fast.save_pretrained(folder)
