"""Verify rows and pictures before training: in parallel, all problems, with a summary."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.progress import Progress

from lensmith import parts
from lensmith.data.reader import RowReader
from lensmith.data.row_images import checked_size
from lensmith.data.rows import LongRow, RowError
from lensmith.data.sources import Mixture
from lensmith.dims import Dimensions, join
from lensmith.errors import DataError
from lensmith.io.terminal import console, visible
from lensmith.spec.run import RunSpec, StageSpec

_CHUNK = 64


@dataclass
class Report:
    """What was found in a stage's rows.

    `truncated` counts rows longer than `max_length`, cut or left out; `positions` and `supervised` are what is
    trained on; `longest` is before any cut. `notes` are of rows that are used and unusual.
    """

    rows: int = 0
    pictures: int = 0
    text_only: int = 0
    truncated: int = 0
    positions: int = 0
    supervised: int = 0
    longest: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take another chunk's numbers in."""
        for name in ("rows", "pictures", "text_only", "truncated", "positions", "supervised"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest = max(self.longest, other.longest)
        self.problems += other.problems
        self.notes += other.notes

    def summary(self, stage: str) -> str:
        """Two lines for people."""
        share = f"{self.supervised / self.positions:.0%}" if self.positions else "none"
        bad = f"{len(self.problems)} cannot be used" if self.problems else "all can be used"
        return (
            f"stage {stage}: {self.rows:,} rows, {bad}; {self.pictures:,} pictures, {self.text_only:,} rows without\n"
            f"  {self.positions:,} positions, {share} supervised; longest row {self.longest:,};"
            f" {self.truncated:,} longer than max_length"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dict(vars(self))


def check_stage(
    spec: RunSpec, stage: StageSpec, *, name: str = "", jobs: int | None = None, pictures: bool = True
) -> Report:
    """Check every row of a stage.

    Args:
        spec, stage: what to check.
        name: of the stage, for the progress bar.
        jobs: processes, by default one a core.
        pictures: decode every picture too, else only the text is checked.

    Raises:
        DataError: a source that cannot be opened at all.
    """
    checker = RowChecker(spec, stage, pictures=pictures)
    total = len(checker.reader.mixture)
    report = Report()
    screen = console()
    with Progress(console=screen, disable=not screen.is_terminal) as progress:
        task = progress.add_task(escape(f"checking {visible(name)}"), total=total)
        for part in _run(checker, total, jobs or os.cpu_count() or 1):
            report.add(part)
            progress.update(task, completed=report.rows)
    return report


class RowChecker:
    """Checks ranges of rows; built once, inherited by the worker processes."""

    def __init__(self, spec: RunSpec, stage: StageSpec, *, pictures: bool) -> None:
        mixture = Mixture(stage.data)
        tokenizer = parts.tokenizer(spec.model)
        self.stage, self.pictures = stage, pictures
        self.dimensions: Dimensions = join(spec.model)
        context = self.dimensions.language_model.context_length
        limit = min(stage.data.max_length or context, context)
        self.reader = RowReader(mixture, parts.conversation(spec.model, stage), tokenizer, limit)

    def check(self, start: int, end: int) -> Report:
        """Numbers and problems of a range of running indices."""
        report = Report()
        for index in range(start, end):
            report.rows += 1
            try:
                self._row(index, report)
            except DataError as error:
                report.problems.append(str(error))
        return report

    def _row(self, index: int, report: Report) -> None:
        row = self.reader.row(index)
        report.notes += [f"{self.reader.place(index)}: row {row.id!r} {note}" for note in row.notes]
        report.pictures += len(row.images)
        report.text_only += not row.images
        encoded = self.reader.encoded(index, row)
        source, _ = self.reader.mixture.locate(index)
        tokens = []
        try:
            for image in row.images:
                size = self.dimensions.encoder.image_size
                if self.pictures:
                    size = checked_size(source.root, image, self.stage.data.pictures)
                tokens.append(self.dimensions.layout(*size).tokens)
            length = len(encoded.ids) - len(tokens) + sum(tokens)
            report.longest = max(report.longest, length)
            report.truncated += length > self.reader.max_length
            encoded = self.reader.fit(encoded, tokens)
        except LongRow:
            return
        except DataError as error:
            raise RowError(f"{self.reader.place(index)}: row {row.id!r}: {error}") from error
        report.positions += len(encoded.ids) - len(tokens) + sum(tokens)
        report.supervised += sum(end - start for start, end in encoded.supervised)


_checker: RowChecker | None = None


def _check_range(bounds: tuple[int, int]) -> Report:
    assert _checker is not None
    return _checker.check(*bounds)


def _run(checker: RowChecker, total: int, jobs: int) -> Iterator[Report]:
    global _checker
    ranges = [(start, min(start + _CHUNK, total)) for start in range(0, total, _CHUNK)]
    # A forked worker inherits the open sources and the tokenizer; elsewhere this process does the work itself.
    if jobs == 1 or len(ranges) == 1 or sys.platform == "win32" or sys.platform == "darwin":
        yield from (checker.check(*bounds) for bounds in ranges)
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _checker = checker
    try:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
            yield from pool.map(_check_range, ranges)
    finally:
        _checker = None
