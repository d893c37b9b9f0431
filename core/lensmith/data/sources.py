"""Files of rows, mixed: several sources with weights, fractions and seeds, read row by row."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from lensmith.data.index import decoded, is_list, places, require_lines
from lensmith.errors import DataError
from lensmith.io.kinds import HEAD, kind_of
from lensmith.spec.run import DataSpec, SourceSpec


class RowFile(Sequence[Any]):
    """The decoded rows of one file, a JSON list or JSON lines.

    Each is read when it is asked for, through an index of where it lies, so that a large file costs little memory and
    is not read through again (see `columns`).

    Raises:
        DataError: missing file, or a list that is not JSON, with the line; a malformed line of a JSON-lines file is
            only met when that row is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listed = is_list(path)
        self._places = places(path, listed=self.listed)
        if not self.listed:
            require_lines(path, self._places)
        self._opened = _signature(path)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, size, line = self._places[index].tolist()
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.read(size)
        try:
            return decoded(self.path, text, start, None if self.listed else line)
        except DataError:
            if _signature(self.path) != self._opened:
                raise DataError(f"{self.path}: changed while it was read; start again when nobody writes it") from None
            raise

    def place(self, index: int) -> str:
        """`file:line` of a JSON-lines row, `file[number]` of a JSON list's."""
        return f"{self.path}[{index}]" if self.listed else f"{self.path}:{self._places[index]['line']}"


def _signature(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


@dataclass(frozen=True)
class Source:
    """One open source.

    Args:
        spec: what the user wrote.
        rows: the file.
        kept: indices that `fraction` kept, ascending.
        root: folder of the pictures.
    """

    spec: SourceSpec
    rows: RowFile
    kept: Sequence[int]
    root: Path


def _not_a_folder(file: Path) -> str:
    with file.open("rb") as opened:
        kind = kind_of(opened.read(HEAD))
    return f"is {kind.name}, not a folder; {kind.cure}" if kind else "is a file, not a folder"


class Mixture:
    """All sources of a stage, addressed by one running index.

    Raises:
        DataError: a file or picture folder that is missing.
    """

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec
        self.sources = [self._open(source) for source in spec.sources]

    @staticmethod
    def _open(spec: SourceSpec) -> Source:
        rows = RowFile(spec.path)
        root = spec.images or spec.path.parent
        if root.is_file():
            raise DataError(f"{root}: {_not_a_folder(root)}; `images` names the folder that the rows' pictures are in")
        if not root.is_dir():
            raise DataError(f"{root} does not exist; `images` names the folder that the rows' pictures are in")
        if not len(rows):
            raise DataError(f"{spec.path} holds no rows; write some, or take the source out")
        kept: Sequence[int] = range(len(rows))
        if spec.fraction < 1:
            count = max(1, round(len(rows) * spec.fraction))
            kept = sorted(random.Random(f"fraction {spec.seed}").sample(range(len(rows)), count))
        return Source(spec, rows, kept, root)

    def __len__(self) -> int:
        return sum(len(source.kept) for source in self.sources)

    def drop(self, indices: Collection[int]) -> None:
        """Leave out rows by their running indices; the others are renumbered.

        Raises:
            DataError: a source would have no row left.
        """
        left_out = set(indices)
        start = 0
        remaining = []
        for source in self.sources:
            kept = [row for i, row in enumerate(source.kept, start) if i not in left_out]
            if not kept:
                raise DataError(f"{source.spec.path} has no row that can be used")
            start += len(source.kept)
            remaining.append(replace(source, kept=kept))
        self.sources = remaining

    def locate(self, index: int) -> tuple[Source, int]:
        """The source and row number behind a running index."""
        for source in self.sources:
            if index < len(source.kept):
                return source, source.kept[index]
            index -= len(source.kept)
        raise IndexError(index)

    def epoch_size(self) -> int:
        """Rows of one epoch, weights applied."""
        return sum(max(1, round(len(s.kept) * s.spec.weight)) for s in self.sources)

    def epoch(self, seed: int, epoch: int) -> list[int]:
        """Running indices of one epoch in training order, the same for the same seed everywhere."""
        order: list[int] = []
        start = 0
        for number, source in enumerate(self.sources):
            size = len(source.kept)
            wanted = max(1, round(size * source.spec.weight))
            whole, rest = divmod(wanted, size)
            order += [start + i for _ in range(whole) for i in range(size)]
            draw = random.Random(f"weight {seed} {epoch} {number}")
            order += [start + i for i in draw.sample(range(size), rest)]
            start += size
        random.Random(f"order {seed} {epoch}").shuffle(order)
        return order

    def stream(self, seed: int) -> Iterator[int]:
        """Epoch after epoch without end."""
        epoch = 0
        while True:
            yield from self.epoch(seed, epoch)
            epoch += 1

    def steps(self, epochs: float, batch: int) -> int:
        """Optimiser steps of so many epochs; the last one is filled up from the epoch after."""
        return max(1, math.ceil(self.epoch_size() * epochs / batch))
