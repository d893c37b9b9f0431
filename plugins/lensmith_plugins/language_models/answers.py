"""Generation: options in transformers' words, stop texts, and ids as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from lensmith import GenerationOptions, Tokenizer


class StopTexts:
    """Texts that end an answer, found in what its ids say."""

    def __init__(self, texts: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self.texts = tuple(text for text in texts if text)
        self._decode = decode

    def __bool__(self) -> bool:
        return bool(self.texts)

    def length(self, ids: Sequence[int]) -> int | None:
        """How many ids come before the earliest stop text, None where there is none."""
        said = self._decode(ids)
        found = [place for text in self.texts if (place := said.find(text)) >= 0]
        return self._within(ids, min(found)) if found else None

    def certain(self, ids: Sequence[int]) -> int:
        """How many ids belong to the answer whatever follows: no stop text can still begin in them."""
        said = self._decode(ids)
        begun = max(
            (n for text in self.texts for n in range(1, len(text)) if said.endswith(text[:n])),
            default=0,
        )
        return self._within(ids, len(said) - begun) if begun else len(ids)

    def _within(self, ids: Sequence[int], characters: int) -> int:
        count = len(ids)
        while count and len(self._decode(ids[:count])) > characters:
            count -= 1
        return count


class StopAtTexts(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed here
    """End each row at its first stop text."""

    def __init__(self, stops: StopTexts) -> None:
        self._stops = stops

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Which rows are finished: (B,) truth values."""
        done = [self._stops.length(row) is not None for row in input_ids.tolist()]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


class TokenStreamer(BaseStreamer):  # type: ignore[misc]
    """Hands over ids of one row as soon as they are known to belong to the answer."""

    def __init__(self, on_token: Callable[[int], None], ends: Sequence[int], stops: StopTexts) -> None:
        self._on_token = on_token
        self._ends = ends
        self._stops = stops
        self._ids: list[int] = []
        self._given = 0
        self._prompt = True

    def put(self, value: Tensor) -> None:
        """Take the next id; the first call brings the prompt."""
        if self._prompt:
            self._prompt = False
            return
        self._ids += value.flatten().tolist()
        self._give(self._stops.certain(self._ids) if self._stops else len(self._ids))

    def end(self) -> None:
        """Hand over what was kept back."""
        self._give(len(self._ids))

    def _give(self, upto: int) -> None:
        upto = min(upto, len(trim(self._ids, self._ends, self._stops)))
        for token in self._ids[self._given : upto]:
            self._on_token(token)
        self._given = max(self._given, upto)


def trim(ids: Sequence[int], ends: Sequence[int], stops: StopTexts) -> list[int]:
    """An answer without its end token, what follows it, and its stop text."""
    ids = list(ids)
    ended = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    kept = ids[:ended]
    return kept[: stops.length(kept)] if stops else kept


def split_stops(options: GenerationOptions, tokenizer: Tokenizer) -> tuple[list[int], StopTexts]:
    """Stops that are one special token, with the end token in front, and stops that are text."""
    tokens = {text: tokenizer.token_id(text) for text in options.stop}
    ends = [tokenizer.eos_id, *(token for token in tokens.values() if token is not None)]
    texts = [text for text, token in tokens.items() if token is None]
    return list(dict.fromkeys(ends)), StopTexts(texts, tokenizer.decode)


def generation_config(options: GenerationOptions, ends: Sequence[int], pad_id: int) -> GenerationConfig:
    """The options, and nothing of a checkpoint's own sampling defaults."""
    sampling = {"temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        do_sample=options.temperature > 0,
        num_beams=options.beams,
        eos_token_id=list(ends),
        pad_token_id=pad_id,
        use_cache=True,
        **(sampling if options.temperature > 0 else {}),
    )
