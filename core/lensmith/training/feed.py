"""Micro-batches of every step and rank: the same rows in the same order, however many ranks and restarts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_all_start_methods

import torch
from torch.utils.data import DataLoader, Dataset

from lensmith.data.batch import Batch, collate, pack
from lensmith.data.order import rows_of_steps
from lensmith.data.reader import RowReader
from lensmith.data.rows import LongRow
from lensmith.data.sample import Sample
from lensmith.errors import DataError, TrainingError
from lensmith.interfaces.text import IGNORE_LABEL
from lensmith.spec.run import StageSpec


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
            raise TrainingError(f"batch.size {size} cannot be shared by {world} ranks; make it a multiple of {world}")
        share = size // world
        micro = min(stage.batch.micro or share, share)
        if share % micro:
            raise TrainingError(
                f"batch.micro {micro} does not divide the {share} rows that each of {world} ranks takes a step"
            )
        return cls(size, micro, share // micro, rank, world)

    def rows(self, step_rows: Sequence[int], micro_step: int) -> Sequence[int]:
        """The rows of this rank's micro-batch, out of a step's rows."""
        start = (micro_step * self.world + self.rank) * self.micro
        return step_rows[start : start + self.micro]


class Feed(Dataset["list[Micro] | DataError"]):
    """The micro-batches of each step.

    Args:
        reader: reads rows.
        stage: batch sizes, seed and policy for bad rows.
        split: this rank's share.
        steps: optimiser steps of the stage.
    """

    def __init__(self, reader: RowReader, stage: StageSpec, split: Split, steps: int) -> None:
        self.reader, self.stage, self.split, self.steps = reader, stage, split, steps
        self.order = rows_of_steps(stage, reader.mixture, steps, split.micro, reader.lengths)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[Micro] | DataError:
        rows = self.order[step]
        try:
            return [self._micro(self.split.rows(rows, k)) for k in range(self.split.accumulation)]
        except DataError as error:
            return error  # a worker that raised it would hide its message behind a stack trace

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
        packed = self.stage.batch.packing
        return Micro(pack([samples], pad) if packed else collate(samples, pad), skipped)

    def batches(self, start: int) -> Iterator[list[Micro]]:
        """Every step from `start` on; prepared ahead by workers where the spec asks for them.

        Raises:
            DataError: a row that cannot be used, where the spec does not leave such rows out.
        """
        workers = self.stage.data.workers
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=range(start, self.steps),
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            # A forked worker inherits the open sources and the parts' specs, whose classes cannot be pickled.
            multiprocessing_context="fork" if workers and "fork" in get_all_start_methods() else None,
            # DataLoader draws a seed when it is iterated; from here, not from the generator that dropout uses.
            generator=torch.Generator().manual_seed(0),
        )
        for micros in loader:
            if isinstance(micros, DataError):
                raise micros
            yield micros


@dataclass
class Micro:
    """One micro-batch and the messages of rows left out of it."""

    batch: Batch
    skipped: list[str]


def _blank(pad_id: int) -> Sample:
    """A row that teaches nothing: stands where every row of a micro-batch was left out."""
    return Sample("", [pad_id], [IGNORE_LABEL], [], [])
