"""What a user sees of a running stage, and the metrics file that stays."""

from __future__ import annotations

import json
import math
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from lensmith.io.json import parse_json
from lensmith.io.terminal import console, visible

_MEMORY = 0.95
"""Share of the smoothed loss that a step keeps: about the last 20 steps count."""
_LINE_SECONDS = 10.0
"""Least time between two lines where there is no terminal."""


class Metrics:
    """One JSON line a step, appended and flushed; opening it again drops the lines past the checkpoint.

    Args:
        path: of the file.
        start: optimiser steps that are done; what was written after them is done again.
    """

    def __init__(self, path: Path, start: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.truncate(self._end_of(start))

    def write(self, entry: dict[str, Any]) -> None:
        """Append one step."""
        self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _end_of(self, start: int) -> int:
        """Bytes up to the first line that is not of a step up to `start`, such as one that a kill cut off."""
        self._file.seek(0)
        end = 0
        for line in self._file:
            try:
                if not line.endswith(b"\n") or parse_json(line, "metrics")["step"] > start:
                    break
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
        return end


class Smoothed:
    """Exponential mean of a number, without the pull of a start value."""

    def __init__(self, memory: float = _MEMORY) -> None:
        self.memory, self._sum, self._weight = memory, 0.0, 0.0

    def add(self, value: float) -> float:
        """The mean with another value in it."""
        self._sum = self.memory * self._sum + (1 - self.memory) * value
        self._weight = self.memory * self._weight + (1 - self.memory)
        return self._sum / self._weight


class Display:
    """A progress bar on a terminal, a line now and then elsewhere; silent on ranks other than 0."""

    def __init__(self, stage: str, start: int, total: int, *, enabled: bool) -> None:
        self.enabled = enabled
        self.console = console()
        self.terminal = enabled and self.console.is_terminal
        self.stage, self.total, self._last = stage, total, -math.inf
        self._loss, self._seconds = Smoothed(), Smoothed()
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            disable=not self.terminal,
        )
        self.task = self.progress.add_task(escape(visible(stage)), total=total, completed=start, text="")

    def __enter__(self) -> Display:
        """Start drawing."""
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        self.progress.stop()

    def step(self, step: int, loss: float, lr: float, tokens: float, seconds: float) -> None:
        """Show a finished step.

        Args:
            step: steps done.
            loss: of this one; the mean of the last ones is shown beside it.
            lr: the largest of the groups' rates.
            tokens: positions that were not padding, all ranks together.
            seconds: that the step took, with the wait for its rows.
        """
        smoothed, pace = self._loss.add(loss), self._seconds.add(seconds)
        left = timedelta(seconds=round(pace * (self.total - step)))
        text = f"loss {smoothed:.4f} (now {loss:.4f})  lr {lr:.2e}  {tokens / seconds:,.0f} tokens/s  {left} left"
        self.progress.update(self.task, completed=step, text=text)
        now = time.monotonic()
        if self.enabled and not self.terminal and (now - self._last > _LINE_SECONDS or step == self.total):
            self._last = now
            print(f"{self.stage}: step {step}/{self.total}  {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self.enabled:
            self.console.print(visible(text), highlight=False, markup=False, soft_wrap=True)
