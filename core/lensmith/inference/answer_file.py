"""A file of answers that grows line by line and goes on where it ended, whatever ended it. No torch here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from lensmith.errors import DataError
from lensmith.inference.questions import Asked
from lensmith.io.json import parse_json, read_object

_CHUNK = 1 << 16


class AnswerFile:
    """Line n answers question n, or says why it could not be asked.

    Beside it, `NAME.settings.json` says what the answers were made with; other settings are refused. A line that was
    being written when the process died is taken off.

    Args:
        path: the file.
        settings: everything that an answer depends on besides its question.

    Raises:
        DataError: the file was made with other settings, or with unknown ones; another process writes it; it cannot
            be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        try:
            self._file: BinaryIO = path.open("a+b", buffering=0)
        except OSError as error:
            raise DataError(
                f"{path} cannot be written ({error.strerror}); name a file in a folder that is there"
            ) from None
        try:
            self._lock()
            self._agree(path.with_name(f"{path.name}.settings.json"), dict(settings))
            self._repair()  # only now is it known to be ours
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()

    def done(self, questions: Sequence[Asked]) -> int:
        """How many questions have their line.

        Raises:
            DataError: a line is not that of its question.
        """
        count = 0
        for count, line in enumerate(self._lines(), 1):
            if count > len(questions):
                raise DataError(f"{self.path} has more lines than there are questions; name another --output")
            asked = questions[count - 1]
            try:
                row = parse_json(line, str(self.path), line=count)
                same = row[asked.key] == asked.id and row["prompt"] == asked.prompt
            except (ValueError, KeyError, TypeError):
                same = False
            if not same:
                raise DataError(
                    f"{self.path}:{count} is not about the question in line {asked.line} of the input; where questions"
                    " changed, name another --output"
                )
        return count

    def skipped(self) -> int:
        """How many lines say why there is no answer."""
        lines = enumerate(self._lines(), 1)
        return sum("error" in parse_json(line, str(self.path), line=number) for number, line in lines)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line, at once.

        Raises:
            DataError: the disk is full, or the like.
        """
        data = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise DataError(f"{self.path} cannot be written ({error.strerror}); make room and start again") from error

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as lines:
            yield from lines

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{self.path} is being written by another process; wait, or name another --output"
            ) from None
        except OSError:  # a file system without locks
            return

    def _repair(self) -> None:
        """Take off what comes after the last whole line."""
        size = end = self._file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _CHUNK)
            self._file.seek(start)
            found = self._file.read(end - start).rfind(b"\n")
            end = start + found + 1 if found >= 0 else start
            if found >= 0:
                break
        if end < size:
            self._file.truncate(end)

    def _agree(self, beside: Path, settings: dict[str, Any]) -> None:
        settings = json.loads(json.dumps(settings))
        if self._file.seek(0, os.SEEK_END) == 0:
            temporary = beside.with_name(f".writing-{beside.name}")
            temporary.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            temporary.replace(beside)
            return
        try:
            known = read_object(beside)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path} holds something already and {beside.name}, which would say how it was made, cannot be"
                " read; name another --output"
            ) from error
        if others := sorted(name for name in {*known, *settings} if known.get(name) != settings.get(name)):
            told = "; ".join(f"{name} {known.get(name)!r}, now {settings.get(name)!r}" for name in others)
            raise DataError(
                f"{self.path} was made with other settings ({told}); ask with the same ones, or name another --output"
            )
