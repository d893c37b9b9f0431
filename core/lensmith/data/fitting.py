"""Rows that will fail while a stage runs, found before it starts: what cannot fit, and images that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from lensmith.data.grouping import told
from lensmith.data.reader import RowReader
from lensmith.data.row_images import image_size
from lensmith.data.rows import LongRow, Row, RowError
from lensmith.data.survey import Texts
from lensmith.dims import Dimensions
from lensmith.errors import DataError

_REASONS = 10
FIRST_IMAGES = 100
"""Images that are looked at before a stage starts."""
_CLOSER = 2000
"""Rows whose images' headers are read, where the number of positions depends on their size."""


@dataclass
class Readiness:
    """What is known of a stage's rows before it starts.

    Args:
        texts: what each row's text comes to.
        bad: running indices of rows that cannot be used or do not fit, ascending.
        first: why, of some of them.
        images: why images among the first of each source cannot be used.
        looked: how many images were looked at.
        all_left_out: whether every row is longer than allowed and left out.
    """

    texts: Texts
    bad: list[int]
    first: list[str]
    images: list[str]
    looked: int
    all_left_out: bool

    def refusal(self, policy: str, shown: int = 10) -> str:
        """Why the stage would stop, for people; empty where it would not.

        Args:
            policy: the spec's `bad_rows`.
            shown: reasons that are told.
        """
        lines: list[str] = []
        if self.all_left_out:
            return "every row is longer than max_length and long_rows: skip leaves them all out; raise max_length"
        if self.bad and policy == "error":
            more = f" (and {len(self.bad) - len(self.first):,} more)" if len(self.bad) > len(self.first) else ""
            cure = "set data.bad_rows: skip to leave them out"
            lines.append(f"{len(self.bad)} of {len(self.texts)} rows cannot be used ({cure}):")
            lines += [f"  {line}" for line in told(self.first, shown)]
            lines[-1] += more
        if self.images and (policy == "error" or len(self.images) == self.looked):
            lines.append(f"{len(self.images)} of the first {self.looked} pictures cannot be used:")
            lines += [f"  {line}" for line in told(self.images, shown)]
        return "\n".join(lines)


def readiness(reader: RowReader, dimensions: Dimensions, limit: int) -> Readiness:
    """Look at every row's text, at what cannot fit, and at the first images of each source.

    Args:
        reader: of the stage.
        dimensions: of the model.
        limit: positions that a row may take.
    """
    texts = reader.survey()
    unusable = np.flatnonzero(texts["ids"] < 0).tolist()
    first = [reader.problem(index) for index in unusable[:_REASONS]]
    fits = misfits(reader, texts, dimensions, limit)
    images, looked = first_images(reader)
    bad = sorted({*unusable, *fits.rows})
    return Readiness(texts, bad, first + fits.first, images, looked, fits.all_left_out)


@dataclass
class Misfits:
    """Rows that take more than `max_length` and cannot be cut to it.

    Args:
        rows: running indices, ascending.
        first: why some of them, with file, line and row.
        all_left_out: whether every row is too long and the spec leaves such rows out.
    """

    rows: list[int] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    all_left_out: bool = False


def misfits(reader: RowReader, texts: Texts, dimensions: Dimensions, limit: int, shown: int = 10) -> Misfits:
    """Rows that will not fit, whatever is cut off.

    Where the number of an image's positions depends on its size, rows that may not fit are looked at one by one, up to
    a bound: of the others an image may still turn out to be too large when its row comes.

    Args:
        reader: of the stage, with the texts' rows.
        texts: what each row's text comes to.
        dimensions: of the model.
        limit: positions that a row may take.
        shown: how many reasons are worked out.
    """
    usual = dimensions.layout(*dimensions.encoder.image_size).tokens
    largest = dimensions.largest().tokens
    images = texts["images"].astype(np.int64)
    long = (texts["ids"] + images * largest > limit) & (texts["ids"] >= 0)
    policy = reader.mixture.spec.long_rows
    if policy == "skip":
        least = texts["ids"] + images * min(usual, largest)
        every = usual == largest and bool(len(texts)) and bool(np.all(least > limit))
        return Misfits(all_left_out=every)
    if policy == "truncate":
        cut = (images > 0) & (texts["last"] + images * largest > limit)
        nothing = texts["first"] + texts["before"].astype(np.int64) * largest >= limit
        long &= cut | nothing
    candidates = np.flatnonzero(long).tolist()
    found = Misfits()
    if usual == largest:
        found.rows = candidates
        candidates = candidates[:shown]
    before, reader.max_length = reader.max_length, limit
    try:
        for index in candidates[:_CLOSER]:
            if why := _misfit(reader, index, dimensions):
                found.first += [why] if len(found.first) < shown else []
                found.rows += [index] if usual != largest else []
    finally:
        reader.max_length = before
    return found


def first_images(reader: RowReader, count: int = FIRST_IMAGES) -> tuple[list[str], int]:
    """Why images among the first of each source cannot be used, from their headers, and how many were looked at.

    Args:
        reader: of the stage.
        count: images of each source that are looked at.
    """
    problems: list[str] = []
    start = looked = 0
    for source in reader.mixture.sources:
        rows = range(start, start := start + len(source.kept))
        for index, row, name in islice(_shown(reader, rows), count):
            looked += 1
            try:
                image_size(source.root, name, reader.mixture.spec.pictures)
            except DataError as error:
                problems.append(f"{reader.place(index)}: row {row.id!r}: {error}")
    return problems, looked


def _shown(reader: RowReader, rows: range) -> Iterator[tuple[int, Row, str]]:
    without = 0
    for index in rows:
        try:
            row = reader.row(index)
        except DataError:
            continue  # told with the rows
        for name in row.images:
            yield index, row, name
        without = 0 if row.images else without + 1
        if without > 100 * FIRST_IMAGES:  # a file of texts
            return


def _misfit(reader: RowReader, index: int, dimensions: Dimensions) -> str:
    row = reader.row(index)
    source, _ = reader.mixture.locate(index)
    try:
        encoded = reader.encoded(index, row)
        usual = dimensions.layout(*dimensions.encoder.image_size).tokens
        tokens = [usual] * len(row.images)
        if usual != dimensions.largest().tokens:
            sizes = [image_size(source.root, name, reader.mixture.spec.pictures) for name in row.images]
            tokens = [dimensions.layout(*size).tokens for size in sizes]
        reader.fit(encoded, tokens)
    except LongRow:
        return ""
    except RowError as error:
        return f"{reader.place(index)}: row {row.id!r}: {error}"
    except DataError:
        return ""  # an image that cannot be read is told as such
    return ""
