"""Generation by transformers: options in its words, rows that end at stop texts, and ids as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from lensmith import GenerationOptions
from lensmith.inference.stops import StopTexts, split_stops, trim

__all__ = ["StopAtTexts", "StopTexts", "TokenStreamer", "generation_config", "split_stops", "trim"]


class StopAtTexts(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed here
    """End each row at its first stop text."""

    def __init__(self, stops: StopTexts) -> None:
        self._stops = stops

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Which rows are finished: (B,) truth values."""
        done = [self._stops.ended(row) for row in input_ids.tolist()]
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
