"""Which rows make up each optimiser step: our own shuffle, or the original LLaVA's orders.

The original's samplers draw from torch's global generator. Here a private one in the same state stands for it, so
that nothing else moves it: the order of a seed is the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, overload

from lensmith.errors import DataError

if TYPE_CHECKING:
    import torch

    from lensmith.data.sources import Mixture
    from lensmith.spec.run import StageSpec


NO_ROW = -1
"""Stands in a step where the original's last micro-batch of an epoch has no row."""


class Order(Sequence[list[int]]):
    """The running indices of every optimiser step, made when they are asked for.

    Steps are made one after another, so that asking for them in their order costs what one epoch costs, however many
    there are.

    Args:
        steps: how many.
        start: begins the endless stream of steps anew.
    """

    def __init__(self, steps: int, start: Callable[[], Iterator[list[int]]]) -> None:
        self._steps, self._start = steps, start
        self._stream, self._made, self._last = start(), 0, list[int]()

    def __len__(self) -> int:
        return self._steps

    @overload
    def __getitem__(self, step: int) -> list[int]: ...
    @overload
    def __getitem__(self, step: slice) -> Sequence[list[int]]: ...
    def __getitem__(self, step: int | slice) -> list[int] | Sequence[list[int]]:
        if isinstance(step, slice):
            return [self[i] for i in range(*step.indices(self._steps))]
        if not 0 <= step < self._steps:
            raise IndexError(step)
        if step + 1 < self._made:
            self._stream, self._made = self._start(), 0
        while self._made <= step:
            self._last = next(self._stream)
            self._made += 1
        return self._last


def steps_of(stage: StageSpec, mixture: Mixture, accumulation: int) -> int:
    """Optimiser steps of a stage: what it says, else its epochs.

    Our own shuffle goes through the epochs without a break, and only the last step may reach into the epoch after. The
    original's loader ends each epoch with what is left: transformers' Trainer (4.37) counts the loader's micro-batches,
    the last one short, and takes one step for each whole accumulation of them.

    Args:
        stage: the stage.
        mixture: its rows.
        accumulation: micro-steps of a step.
    """
    if stage.max_steps is not None:
        return stage.max_steps
    if stage.data.order == "shuffle":
        return mixture.steps(stage.epochs, stage.batch.size)
    rounds = math.ceil(len(mixture) * accumulation / stage.batch.size)
    return max(1, math.ceil(stage.epochs * max(1, rounds // accumulation)))


def rows_of_steps(
    stage: StageSpec,
    mixture: Mixture,
    steps: int,
    micro: int,
    lengths: Callable[[], Sequence[int]],
    accumulation: int = 1,
) -> Order:
    """The running indices of every optimiser step, micro-batch after micro-batch, rank after rank.

    Args:
        stage: says the order, the batch size and the seed.
        mixture: the rows.
        steps: of the stage.
        micro: rows that a rank takes at once; grouping fills micro-batches of like length.
        lengths: gives the signed length of every row (see `modality_length`); called only where rows are grouped.
        accumulation: micro-steps of a step; in the original's orders a step may hold the end of an epoch and the start
            of the next one, with `NO_ROW` for what the end lacks.
    """
    size = stage.batch.size
    if stage.data.order == "shuffle":
        return Order(steps, lambda: _cut_stream(mixture.stream(stage.seed), size))
    grouped = None if stage.data.order == "llava" else list(lengths())
    return Order(
        steps, lambda: _original_steps(_original_epochs(len(mixture), grouped, stage, micro), size, accumulation)
    )


def _cut_stream(rows: Iterator[int], size: int) -> Iterator[list[int]]:
    while True:
        yield list(islice(rows, size))


def _original_steps(epochs: Iterator[list[int]], size: int, accumulation: int) -> Iterator[list[int]]:
    """Steps of `accumulation` rounds each; a round is what all ranks take at once, `size / accumulation` rows."""
    width = size // accumulation
    waiting: list[list[int]] = []
    for epoch in epochs:
        rounds = _cut(epoch, width)
        short = len(rounds) <= accumulation  # one step an epoch, however few rounds it has
        waiting += rounds
        while len(waiting) >= accumulation or (short and waiting):
            taken, waiting = waiting[:accumulation], waiting[accumulation:]
            padded = [row + [NO_ROW] * (width - len(row)) for row in taken[:-1]]
            yield [row for rows in [*padded, taken[-1]] for row in rows]


def _original_epochs(rows: int, lengths: list[int] | None, stage: StageSpec, micro: int) -> Iterator[list[int]]:
    import torch

    generator = torch.Generator().manual_seed(stage.seed)
    while True:
        _draw(generator)  # a data loader draws a seed for its workers before its sampler starts
        if lengths is None:
            yield _permutation(rows, torch.Generator().manual_seed(_draw(generator)))
        else:
            world = stage.batch.size // micro
            paper_time = stage.data.order == "llava_grouped_v1.1"
            yield group_by_modality(lengths, micro, world, generator, paper_time=paper_time)


def _draw(generator: torch.Generator) -> int:
    import torch

    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def modality_length(row: Mapping[str, Any]) -> int:
    """The original's signed length of a row: its words, split at white space, negative without a picture.

    Args:
        row: the decoded JSON object.

    Raises:
        DataError: a row without words, which has no sign.
    """
    turns = row["conversations"] if "conversations" in row else row["messages"]
    words = sum(len(_words(turn).split()) for turn in turns)
    if not words:
        raise DataError("has no words, so it cannot be grouped by its length; leave it out")
    shown = row.get("image") or row.get("images") or any(_shows(turn) for turn in turns)
    return words if shown else -words


def _words(turn: Mapping[str, Any]) -> str:
    said = turn["value"] if "value" in turn else turn["content"]
    if isinstance(said, list):
        return " ".join(str(part.get("text", "")) for part in said if isinstance(part, dict))
    return str(said)


def _shows(turn: Mapping[str, Any]) -> bool:
    said = turn.get("content")
    return isinstance(said, list) and any(isinstance(part, dict) and "image" in str(part.get("type")) for part in said)


def group_by_modality(
    lengths: Sequence[int], batch: int, world: int, generator: torch.Generator, *, paper_time: bool = False
) -> list[int]:
    """Rows in an order whose batches hold one modality and like lengths (LLaVA-1.5, arXiv 2310.03744, appendix A.2).

    Args:
        lengths: signed, see `modality_length`.
        batch: rows that one rank takes at once.
        world: how many such batches a step has (ranks x accumulation).
        generator: moved by as many draws as the original makes.
        paper_time: as in the code of October 2023: the rest is not sorted, and if it fills a step it goes first.
    """
    if any(length == 0 for length in lengths):
        raise ValueError("a length of 0 has no modality")
    if all(length > 0 for length in lengths) or all(length < 0 for length in lengths):
        return group_by_length(lengths, batch, world, generator)
    shown = [i for i, length in enumerate(lengths) if length > 0]
    read = [i for i, length in enumerate(lengths) if length < 0]
    step = world * batch
    parts = [
        _cut([rows[i] for i in group_by_length([abs(lengths[i]) for i in rows], batch, world, generator)], step)
        for rows in (shown, read)
    ]
    rest = [row for steps in parts for row in steps[-1]]
    whole = [steps for part in parts for steps in part[:-1]]
    order = [row for i in _permutation(len(whole), generator) for row in whole[i]]
    if not paper_time:
        return order + sorted(rest)
    if len(rest) >= step:
        return rest[:step] + order + rest[step:]
    return order + rest


def group_by_length(lengths: Sequence[int], batch: int, world: int, generator: torch.Generator) -> list[int]:
    """Rows in an order whose steps are random, longest rows first within a step, shared evenly among its batches."""
    step = world * batch
    drawn = _permutation(len(lengths), generator)
    order: list[int] = []
    for rows in _cut(drawn, step):
        longest_first = sorted(rows, key=lambda row: lengths[row], reverse=True)
        order += [row for chunk in even_chunks(longest_first, lengths, world) for row in chunk]
    return order


def even_chunks(rows: Sequence[int], lengths: Sequence[int], chunks: int) -> list[list[int]]:
    """Share rows among chunks of one size so that the sums of their lengths are near each other."""
    if len(rows) % chunks:
        return [list(rows[i::chunks]) for i in range(chunks)]
    size = len(rows) // chunks
    made: list[list[int]] = [[] for _ in range(chunks)]
    sums: list[float] = [0.0] * chunks
    for row in rows:
        smallest = sums.index(min(sums))
        made[smallest].append(row)
        sums[smallest] += lengths[row]
        if len(made[smallest]) == size:
            sums[smallest] = float("inf")
    return made


def _permutation(size: int, generator: torch.Generator) -> list[int]:
    import torch

    drawn: list[int] = torch.randperm(size, generator=generator).tolist()
    return drawn


def _cut(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
