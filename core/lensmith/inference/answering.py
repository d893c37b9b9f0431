"""Answers in parallel: one row a picture, its questions' answers growing side by side in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lensmith.inference.branching import branched
from lensmith.inference.choosing import choose
from lensmith.inference.decoder import Begun, Decoder
from lensmith.inference.forest import BRANCHES
from lensmith.inference.stops import split_stops, trim
from lensmith.interfaces.language_model import GenerationOptions


@dataclass
class _Answer:
    """One that grows.

    Args:
        number: of its prompt.
        position: of its next id.
        room: ids that it may still get.
        draw: its source of chance.
    """

    number: int
    position: int
    room: int
    draw: torch.Generator | None
    ids: list[int] = field(default_factory=list)


def answer_keys(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    batch_size: int,
    draws: Sequence[torch.Generator | None],
    goes_on: Callable[[int, int], bool] | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Continue prompts; yields their numbers and new ids, a batch at a time.

    Args:
        decoder: with the prompts' pictures.
        prompts: keys of each.
        options: without beams.
        batch_size: answers that grow at the same time.
        draws: see `choose`.
        goes_on: called with a prompt's number and each of its ids as it comes, end tokens too; false ends the answer.
    """
    limit = decoder.language_model.shape.context_length
    stops = split_stops(options, decoder.language_model.tokenizer)
    bounds = [len(prompt) - 1 for prompt in prompts]
    for rows in branched(decoder, prompts, bounds, batch_size, BRANCHES):
        slots = [
            [
                _Answer(number, len(keys), min(options.max_new_tokens, limit - len(keys)), draws[number])
                for number, keys in ((number, prompts[number]) for number in members)
            ]
            for members in rows.members
        ]
        ends = [[path[-1] for path in tree.paths] for tree in rows.trees]
        _steps(decoder, rows.begun, _padded(ends, rows.begun.hidden.device), slots, options, goes_on)
        yield from ((answer.number, trim(answer.ids, *stops)) for row in slots for answer in row)


def _steps(
    decoder: Decoder,
    begun: Begun,
    ends: Tensor,
    slots: Sequence[Sequence[_Answer]],
    options: GenerationOptions,
    goes_on: Callable[[int, int], bool] | None,
) -> None:
    """Append ids to all answers until each has ended.

    Args:
        decoder: see `answer_keys`.
        begun: the prompts.
        ends: (R, Q) the last position of each prompt within `begun`.
        slots: by row the answers, in the order of `ends`.
        options, goes_on: see there.
    """
    end_ids, stops = split_stops(options, decoder.language_model.tokenizer)
    memory = begun.memory
    hidden, seen = begun.at(ends)  # (R, Q, D), (R, Q, S)
    growing = [list(row) for row in slots]
    while True:
        alive = [(row, slot) for row, answers in enumerate(growing) for slot in range(len(answers))]
        at = torch.tensor(alive, device=hidden.device).T
        answers = [growing[row][slot] for row, slot in alive]
        ids = choose(decoder.language_model.head(hidden[at[0], at[1]]), options, [answer.draw for answer in answers])
        for answer, token in zip(answers, ids, strict=True):
            answer.ids.append(token)
            answer.room -= 1
            answer.position += 1
            if token in end_ids or (stops and stops.ended(answer.ids)):
                answer.room = 0
            if goes_on is not None and not goes_on(answer.number, token):
                answer.room = 0
        kept = [[slot for slot, answer in enumerate(row) if answer.room > 0] for row in growing]
        rows = [row for row, slots_kept in enumerate(kept) if slots_kept]
        if not rows:
            return
        if len(rows) > len(growing) / 2:  # rows without answers stay until half of them are empty
            rows = list(range(len(growing)))
        chosen = _padded([kept[row] for row in rows], hidden.device)  # (R, Q)
        here = torch.tensor(rows, device=hidden.device)
        if len(rows) < len(growing):
            memory = memory.select(here)
        seen = seen[here[:, None], chosen]
        growing = [[growing[row][slot] for slot in kept[row]] for row in rows]
        tokens = _padded([[answer.ids[-1] for answer in row] for row in growing], hidden.device)
        positions = _padded([[answer.position - 1 for answer in row] for row in growing], hidden.device)
        own = torch.eye(tokens.shape[1], dtype=torch.bool, device=seen.device).expand(len(rows), -1, -1)
        seen = torch.cat([seen, own], dim=2)
        plain = tokens.shape[1] == 1 and bool(seen.all())
        hidden = decoder.language_model.recall(
            decoder.language_model.embed(tokens), positions, None if plain else seen, memory
        )


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Rows of numbers (R, Q), filled up with zeros to the longest, which has one at least."""
    width = max(1, *map(len, rows))
    return torch.tensor([[*row, *([0] * (width - len(row)))] for row in rows], device=device)


def limited(options: GenerationOptions, stop: Sequence[str]) -> GenerationOptions:
    """Options with the conversation's stops besides their own."""
    return replace(options, stop=tuple(dict.fromkeys((*options.stop, *stop))))
