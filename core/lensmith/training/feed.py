"""Micro-batches of every step and rank: the same rows in the same order, however many ranks and restarts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from lensmith.data.batch import Batch, collate, pack
from lensmith.data.order import NO_ROW, rows_of_steps
from lensmith.data.reader import RowReader
from lensmith.data.rows import LongRow
from lensmith.data.sample import Sample
from lensmith.errors import DataError, TrainingError
from lensmith.interfaces.text import IGNORE_LABEL
from lensmith.spec.run import StageSpec
from lensmith.training.ahead import ahead
from lensmith.training.hardware import data_workers


@dataclass(frozen=True)
class Split:
    """How the rows of one optimiser step are shared.

    Args:
        size: rows a step, all ranks together.
        micro: rows that a rank takes at once.
        accumulation: how often it does, a step.
        rank, world: this process and how many there are.
    """

    size: int
    micro: int
    accumulation: int
    rank: int
    world: int

    @classmethod
    def of(cls, stage: StageSpec, rank: int, world: int) -> Split:
        """The split of a stage.

        Raises:
            TrainingError: the batch cannot be shared evenly; says which sizes can.
        """
        size = stage.batch.size
        if size % world:
            near = max(world, size // world * world)
            raise TrainingError(
                f"a step of {size} rows (batch.size) cannot be shared evenly by {world} processes; set batch.size to"
                f" {near}{f' or {near + world}' if near < size else ''}, or take"
                f" {max(n for n in range(1, world) if size % n == 0)} processes"
            )
        share = size // world
        micro = min(stage.batch.micro or share, share)
        if share % micro:
            fitting = max(n for n in range(1, micro) if share % n == 0)
            raise TrainingError(
                f"batch.micro {micro} does not divide the {share} rows of a step that each of {world} processes takes;"
                f" set batch.micro to {fitting}"
            )
        return cls(size, micro, share // micro, rank, world)

    def rows(self, step_rows: Sequence[int]) -> list[Sequence[int]]:
        """The rows of each of this rank's micro-batches, out of a step's rows."""
        starts = range(self.rank * self.micro, self.size, self.world * self.micro)
        return [step_rows[start : start + self.micro] for start in starts]

    def even_rows(self, step_rows: Sequence[int], lengths: Sequence[int]) -> list[Sequence[int]]:
        """The same with micro-batches of like total length, whatever the number of their rows: none waits for another.

        The longest row first, each goes to where there is least.

        Args:
            step_rows: a step's rows.
            lengths: positions of each.
        """
        bins = self.accumulation * self.world
        sums, members = [0] * bins, [list[int]() for _ in range(bins)]
        for place in sorted(range(len(step_rows)), key=lambda place: (-lengths[place], place)):
            least = sums.index(min(sums))
            members[least].append(place)
            sums[least] += lengths[place]
        return [[step_rows[place] for place in sorted(own)] for own in members[self.rank :: self.world]]


class Feed(Dataset["Micro | DataError"]):
    """The micro-batches of each step: item `step * per_step + n` is this rank's n-th micro-batch of a step.

    A micro-batch at a time is what is prepared and sent ahead, so that what is under way does not grow with the batch.

    Args:
        reader: reads rows.
        stage: batch sizes, seed and policy for bad rows.
        split: this rank's share.
        steps: optimiser steps of the stage.
        packs: lay the rows of a micro-batch end to end instead of padding them.
        lengths: positions of each row, so that packed micro-batches are of like length; None where it is not known.
    """

    def __init__(
        self,
        reader: RowReader,
        stage: StageSpec,
        split: Split,
        steps: int,
        *,
        packs: bool = False,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.reader, self.stage, self.split, self.steps, self.packs = reader, stage, split, steps, packs
        # A loss that each micro-batch averages on its own depends on which rows are in it.
        self.lengths = lengths if packs and stage.loss == "tokens" else None
        self.order = rows_of_steps(stage, reader.mixture, steps, split.micro, reader.lengths, split.accumulation)

    @property
    def per_step(self) -> int:
        """Micro-batches of this rank in a step."""
        return self.split.accumulation

    def __len__(self) -> int:
        return self.steps * self.per_step

    def rows(self, start: int) -> list[int]:
        """Running indices of the rows that the steps from `start` on show, in their order, each once."""
        seen: dict[int, None] = {}
        for step in range(start, self.steps):
            seen.update(dict.fromkeys(row for row in self.order[step] if row != NO_ROW))
            if len(seen) == len(self.reader.mixture):
                break
        return list(seen)

    def __getitem__(self, place: int) -> Micro | DataError:
        step, number = divmod(place, self.per_step)
        try:
            return self._micro(self._shared(self.order[step])[number])
        except DataError as error:
            return error  # a worker that raised it would hide its message behind a stack trace

    def _shared(self, rows: Sequence[int]) -> list[Sequence[int]]:
        if self.lengths is None:
            return [[row for row in own if row != NO_ROW] for own in self.split.rows(rows)]
        rows = [row for row in rows if row != NO_ROW]
        return self.split.even_rows(rows, [int(self.lengths[row]) for row in rows])

    def _micro(self, indices: Sequence[int]) -> Micro:
        samples: list[Sample] = []
        skipped: list[str] = []
        for index in indices:
            try:
                samples.append(self.reader.sample(index))
            except DataError as error:
                if self.stage.data.bad_rows == "error" and not isinstance(error, LongRow):
                    raise
                skipped.append(str(error))
        pad = self.reader.tokenizer.pad_id
        samples = samples or [_blank(pad)]
        return Micro(pack([samples], pad) if self.packs else collate(samples, pad), skipped)

    def batches(self, start: int) -> Iterator[list[Micro]]:
        """Every step from `start` on; prepared ahead by workers where the spec asks for them.

        Raises:
            DataError: a row that cannot be used, where the spec does not leave such rows out.
            TrainingError: a worker ended before its work.
        """
        items = range(start * self.per_step, len(self))
        workers = min(data_workers(self.stage), len(items))
        prepared = ahead(self, items, workers) if workers else (self[place] for place in items)
        micros: list[Micro] = []
        for item in prepared:
            if isinstance(item, DataError):
                raise item
            micros.append(item)
            if len(micros) == self.per_step:
                yield micros
                micros = []


@dataclass
class Micro:
    """One micro-batch and the messages of rows left out of it."""

    batch: Batch
    skipped: list[str]


def _blank(pad_id: int) -> Sample:
    """A row that teaches nothing: stands where every row of a micro-batch was left out."""
    return Sample("", [pad_id], [IGNORE_LABEL], [], [])
