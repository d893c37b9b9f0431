"""Benchmarks that are asked together, each with its own data: a suite file, or the benchmarks of a study."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from lensmith.checkpoints import SpecPath
from lensmith.errors import Problem, SpecError
from lensmith.interfaces.benchmark import Benchmark
from lensmith.spec.run import Section
from lensmith.spec.yaml import read_document

_NAME = re.compile(r"[^/\\\x00]+\Z")


class BenchmarkEntry(Section):
    """One benchmark and its questions."""

    name: str
    """The benchmark (`lensmith list --kind benchmark`)."""
    data: SpecPath
    """Folder or file with its questions."""
    images: SpecPath | None = None
    """Folder of the pictures; by default the data's."""
    label: str | None = None
    """Name in tables and of its folder of results; by default the benchmark's. Two entries of one benchmark need
    two."""
    options: dict[str, Any] = Field({})
    """Fields of the benchmark's spec."""
    limit: int | None = Field(None, ge=1)
    """Ask only the first so many questions. By default all."""

    @property
    def title(self) -> str:
        """Name in tables."""
        return self.label or self.name

    def written(self) -> list[str]:
        """The options as `lensmith eval` reads them."""
        return [
            f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in self.options.items()
        ]

    @model_validator(mode="after")
    def _one_folder(self) -> BenchmarkEntry:
        if not _NAME.match(self.title) or self.title in {".", ".."}:
            raise ValueError(f"{self.title!r} cannot be the name of a folder; give another label")
        return self


class Suite(Section):
    """What a suite file says; the `benchmarks` of a study file are the same."""

    benchmarks: list[BenchmarkEntry] = Field(min_length=1)
    """What is asked."""

    @model_validator(mode="after")
    def _distinct(self) -> Suite:
        check_titles(self.benchmarks)
        return self


def check_titles(entries: Sequence[BenchmarkEntry]) -> None:
    """Raises:
    ValueError: two entries of one name.
    """
    titles = [entry.title for entry in entries]
    if twice := sorted({title for title in titles if titles.count(title) > 1}):
        raise ValueError(f"benchmarks: {', '.join(twice)} is there twice; give each a label of its own")


def read_suite(path: Path) -> Suite:
    """Read a suite file: YAML, JSON or TOML.

    Raises:
        SpecError: every mistake, by path, with the line.
    """
    document = read_document(path)
    try:
        return Suite.model_validate(document.data)
    except ValidationError as error:
        problems = [
            Problem(
                ".".join(map(str, detail["loc"])),
                detail["msg"].removeprefix("Value error, "),
                document.place(tuple(detail["loc"])),
            )
            for detail in error.errors(include_url=False)
        ]
        raise SpecError(problems) from None


@dataclass(frozen=True)
class Task:
    """One benchmark that is to be asked.

    Args:
        title: name in tables and of its folder of results.
        name: of the benchmark.
        benchmark: made from its options.
        data: its official files.
        images: folder of the pictures, by default the data's.
        limit: only so many questions, the first ones.
    """

    title: str
    name: str
    benchmark: Benchmark
    data: Path
    images: Path | None = None
    limit: int | None = None
