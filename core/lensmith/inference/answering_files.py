"""A file of questions to a file of answers."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lensmith.errors import DataError
from lensmith.inference.answer_file import AnswerFile
from lensmith.inference.questions import Asked
from lensmith.io.terminal import raw, visible

if TYPE_CHECKING:
    from lensmith.interfaces.language_model import GenerationOptions
    from lensmith.model import MultimodalModel

BadRows = Literal["stop", "skip"]
_SHOWN = 20


def check_rows(file: Path, questions: Sequence[Asked], bad_rows: BadRows) -> None:
    """Look for rows that cannot be asked, before any weights are loaded.

    Raises:
        DataError: there are no rows; or all problems of rows, where these stop the work.
    """
    if not questions:
        raise DataError(f"{file} holds no questions")
    if bad_rows == "skip":
        return
    absent = {image for asked in questions for image in asked.images if not image.is_file()}
    problems = []
    for asked in questions:
        gone = [f"{image}: there is no such file" for image in asked.images if image in absent]
        problems += [f"{asked.name(file)} {problem}" for problem in (asked.problem, *gone) if problem]
    if problems:
        more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        cure = "correct them, or answer the others with --bad-rows skip"
        raise DataError("\n  ".join([*problems[:_SHOWN], *more, cure]))


def answer_file(
    model: MultimodalModel,
    file: Path,
    questions: Sequence[Asked],
    output: AnswerFile,
    options: GenerationOptions,
    *,
    name: str,
    batch_size: int,
    seed: int,
    bad_rows: BadRows,
) -> None:
    """Answer the questions that have no line in the output yet, in their order.

    Args:
        model: answers.
        file: of the questions, for messages.
        questions: its rows.
        output: gets a line for each.
        options: how.
        name: of the model, as LLaVA's rows of answers give it.
        batch_size: answers that grow at the same time.
        seed: of sampling; each row draws from a source of its own, made of this and its line.
        bad_rows: whether a row that cannot be asked ends the work, or gets a line with its `error`.

    Raises:
        DataError: a row that cannot be asked, the answers before it written; or see `AnswerFile`.
    """
    from lensmith.generation import Question, answers

    start = output.done(questions)
    progress = _Progress(len(questions), start)
    window = max(64, 4 * batch_size)
    for begin in range(start, len(questions), window):
        rows = questions[begin : begin + window]
        good = [place for place, asked in enumerate(rows) if not asked.problem]
        ready: dict[int, Mapping[str, Any]] = {
            place: asked.skipped(asked.problem) for place, asked in enumerate(rows) if asked.problem
        }
        written = _write(output, ready, 0)
        said = answers(
            model,
            [Question(rows[place].images, rows[place].prompt) for place in good],
            options,
            batch_size,
            [_seed(seed, rows[place].line) for place in good],
        )
        failures: dict[int, DataError] = {}
        for number, answer in said:
            asked = rows[good[number]]
            if isinstance(answer, str):
                ready[good[number]] = asked.answered(answer, name)
            elif bad_rows == "skip":
                ready[good[number]] = asked.skipped(str(answer))
            else:
                failures[good[number]] = answer
            written = _write(output, ready, written)
            progress.show(begin + written)
        if failures:
            first = min(failures)
            raise DataError(
                f"{rows[first].name(file)} {failures[first]}; the {begin + first} rows before it are answered,"
                " --bad-rows skip goes on after it"
            )
    progress.end()


def _write(output: AnswerFile, ready: dict[int, Mapping[str, Any]], written: int) -> int:
    """Write what is next in order."""
    while written in ready:
        output.write(ready.pop(written))
        written += 1
    return written


def _seed(seed: int, line: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{line}".encode(), digest_size=7).digest(), "big")


class _Progress:
    """How far it is, on standard error: in place on a terminal, else a line every half minute."""

    def __init__(self, total: int, start: int) -> None:
        self.total, self.start = total, start
        self.began = self.shown = time.monotonic()
        self.terminal = sys.stderr.isatty()
        if start:
            print(f"{start:,} of {total:,} questions are answered already", file=sys.stderr)

    def show(self, done: int) -> None:
        now = time.monotonic()
        if now - self.shown < (1 if self.terminal else 30):
            return
        self.shown = now
        pace = (done - self.start) / (now - self.began)
        left = f", {(self.total - done) / pace / 60:,.0f} min left" if pace else ""
        text = f"{done:,} of {self.total:,} questions, {pace:.2f} a second{left}"
        if self.terminal:
            print(f"\r{visible(text)}\x1b[K", end="", file=raw(sys.stderr), flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", file=raw(sys.stderr), flush=True)
