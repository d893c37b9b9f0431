"""One answer as it grows: what it says so far, and why it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lensmith.inference.stops import split_stops, trim
from lensmith.interfaces.language_model import GenerationOptions
from lensmith.interfaces.text import Tokenizer


class Reply:
    """Ids of an answer.

    Args:
        tokenizer: of the model.
        stop: texts that end it.
        limit: most ids.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], limit: int) -> None:
        self.limit = limit
        self.reason: Literal["stop", "length"] | None = None
        self._tokenizer = tokenizer
        self._ends, self._stops = split_stops(GenerationOptions(stop=tuple(stop)), tokenizer)
        self._ids: list[int] = []
        self._told = ""

    def add(self, token: int) -> bool:
        """Take the next id; returns whether the answer goes on."""
        self._ids.append(token)
        if token in self._ends or (self._stops and self._stops.ended(self._ids)):
            self.reason = "stop"
        elif len(self._ids) >= self.limit:
            self.reason = "length"
        return self.reason is None

    @property
    def ids(self) -> list[int]:
        """What belongs to the answer."""
        return trim(self._ids, self._ends, self._stops)

    @property
    def text(self) -> str:
        """All that it says."""
        return self._stops.cut(self._tokenizer.decode(self.ids)).strip()

    def piece(self) -> str:
        """What can be told now and was not before: no half character, no beginning of a stop text, no last space."""
        text = self.text if self.reason is not None else ""
        if self.reason is None:
            text = self._stops.safe(self._tokenizer.decode(self._ids)).strip()
            if text.endswith("\ufffd") or not text.startswith(self._told):
                return ""
        piece = text[len(self._told) :]
        self._told += piece
        return piece
