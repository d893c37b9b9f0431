"""What ends an answer: ids, and texts found in what its ids say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lensmith.interfaces.language_model import GenerationOptions
from lensmith.interfaces.text import Tokenizer


class StopTexts:
    """Texts that end an answer, found in what its ids say."""

    def __init__(self, texts: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self.texts = tuple(text for text in texts if text)
        self._decode = decode
        # An id says at least one byte, a character has four at most.
        self._tail = 4 * max(map(len, self.texts), default=0) + 8

    def __bool__(self) -> bool:
        return bool(self.texts)

    def cut(self, said: str) -> str:
        """What comes before the earliest stop text."""
        found = [place for text in self.texts if (place := said.find(text)) >= 0]
        return said[: min(found)] if found else said

    def safe(self, said: str) -> str:
        """What belongs to an answer that still grows, whatever follows: no stop text can begin in it."""
        kept = self.cut(said)
        return kept if kept != said else said[: len(said) - self._begun(said)]

    def length(self, ids: Sequence[int]) -> int | None:
        """How many ids hold all that comes before the earliest stop text, None where there is none.

        Where the stop text begins inside an id, the ids that complete it are among them, so that `cut` finds it.
        """
        said = self._decode(ids)
        answer = self.cut(said)
        if answer == said:
            return None
        count = self._within(ids, len(answer))
        if self._decode(ids[:count]) != answer:
            while self.cut(self._decode(ids[:count])) != answer:
                count += 1
        return count

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether the last id completed a stop text, where none was complete before it."""
        if len(ids) <= self._tail:
            return self.length(ids) is not None
        said = self._decode(ids[-self._tail :])
        return any(text in said for text in self.texts) and self.length(ids) is not None

    def certain(self, ids: Sequence[int]) -> int:
        """How many ids belong to the answer whatever follows: no stop text can still begin in them."""
        said = self._decode(ids)
        begun = self._begun(said)
        return self._within(ids, len(said) - begun) if begun else len(ids)

    def _begun(self, said: str) -> int:
        """Characters at the end with which a stop text may begin."""
        return max((n for text in self.texts for n in range(1, len(text)) if said.endswith(text[:n])), default=0)

    def _within(self, ids: Sequence[int], characters: int) -> int:
        count = len(ids)
        while count and len(self._decode(ids[:count])) > characters:
            count -= 1
        return count


def trim(ids: Sequence[int], ends: Sequence[int], stops: StopTexts) -> list[int]:
    """An answer without its end token, what follows it, and the ids of its stop text that say nothing else.

    Where a stop text begins inside an id it is still there; see `spoken`.
    """
    ids = list(ids)
    ended = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    kept = ids[:ended]
    return kept[: stops.length(kept)] if stops else kept


def spoken(ids: Sequence[int], options: GenerationOptions, tokenizer: Tokenizer) -> str:
    """What an answer says: without its end token, its stop text, to the character, and the space around it."""
    ends, stops = split_stops(options, tokenizer)
    return stops.cut(tokenizer.decode(trim(ids, ends, stops))).strip()


def split_stops(options: GenerationOptions, tokenizer: Tokenizer) -> tuple[list[int], StopTexts]:
    """Stops that are one special token, with the end token in front, and stops that are text."""
    tokens = {text: tokenizer.token_id(text) for text in options.stop}
    ends = [tokenizer.eos_id, *(token for token in tokens.values() if token is not None)]
    texts = [text for text, token in tokens.items() if token is None]
    return list(dict.fromkeys(ends)), StopTexts(texts, tokenizer.decode)
