"""How far it is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lensmith.io.terminal import console, visible

_LINE_SECONDS = 10.0


class Counter:
    """Counts what is done of something.

    Args:
        name: of it.
        total: how much there is.
        done: how much was done before.
    """

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        self.name, self.total, self.done = name, total, done
        screen = console()
        self._terminal = screen.is_terminal
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=screen,
            disable=not self._terminal,
        )
        self._task = self._progress.add_task(escape(visible(name)), total=total, completed=done)
        self._begun, self._before, self._last = time.monotonic(), done, time.monotonic()

    def __enter__(self) -> Counter:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        self._progress.stop()

    def set(self, done: int) -> None:
        """So much is done now."""
        self.done = done
        self._progress.update(self._task, completed=done)
        now = time.monotonic()
        if not self._terminal and (now - self._last > _LINE_SECONDS or done == self.total):
            self._last = now
            pace = (now - self._begun) / max(done - self._before, 1)
            left = f", {pace * (self.total - done):,.0f} s left" if done < self.total else ""
            print(f"{self.name}: {done}/{self.total}{left}", file=sys.stderr, flush=True)
