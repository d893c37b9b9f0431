"""The next id from its logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lensmith.interfaces.language_model import GenerationOptions


def choose(logits: Tensor, options: GenerationOptions, draws: Sequence[torch.Generator | None]) -> list[int]:
    """An id a row of logits (N, vocabulary).

    Args:
        logits: of N answers.
        options: greedy at temperature 0; else a sample from the nucleus (Holtzman et al. 2020, section 3.1).
        draws: a source of chance for each answer; None is torch's own.
    """
    if options.temperature == 0:
        chosen: list[int] = logits.argmax(-1).tolist()
        return chosen
    likely = (logits.float() / options.temperature).softmax(-1)
    if options.top_p < 1:
        ranked, order = likely.sort(descending=True, stable=True)
        outside = ranked.cumsum(-1) - ranked >= options.top_p
        outside[:, 0] = False
        likely = likely.scatter(1, order, ranked.masked_fill(outside, 0))
    return [int(torch.multinomial(row, 1, generator=draw)) for row, draw in zip(likely, draws, strict=True)]
