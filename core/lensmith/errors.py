"""Errors that a user can act on: each says where, what and what to do. The CLI prints them and exits with code 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class LensmithError(Exception):
    """Base class of every error that a user, a file or a plugin can cause."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a spec or a data file.

    Args:
        path: dotted path in the spec, e.g. `model.connector.depth`, or a row's id.
        message: what is wrong and what is allowed.
        place: file and line, where known, e.g. `run.yaml:12`.
    """

    path: str
    message: str
    place: str = ""

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class SpecError(LensmithError):
    """A spec with one or more mistakes, all of them listed."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(LensmithError):
    """A data file, row or picture that cannot be used."""


class ArtifactError(LensmithError):
    """A folder that is not a whole artifact, or one whose parts are not here."""


class TrainingError(LensmithError):
    """Training cannot start, go on or be resumed."""


class OutputError(LensmithError):
    """A file or folder that cannot be written, e.g. because the disk is full."""


class Interrupted(LensmithError):
    """A signal stopped a run where `--resume` takes it up; the command exits with 128 and the signal's number.

    Args:
        message: for the user; empty where another rank says it.
        signal: its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        self.signal = signal
        super().__init__(message)
