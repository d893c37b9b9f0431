"""What a user sees of a running stage, and the metrics file that stays."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Metrics:
    """One JSON line a step, flushed as it is written; on resume, lines past the checkpoint are dropped."""

    def __init__(self, path: Path, start: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[str] = []
        if start and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= start:
                        kept.append(line)
                except (ValueError, KeyError):
                    continue  # the line that a kill cut off
        self._file = path.open("w", encoding="utf-8")
        for line in kept:
            self._file.write(line + "\n")
        self._file.flush()

    def write(self, entry: dict[str, Any]) -> None:
        """Append one step."""
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Display:
    """A progress bar on a terminal, a line now and then elsewhere; silent on ranks other than 0."""

    def __init__(self, stage: str, start: int, total: int, *, enabled: bool) -> None:
        self.enabled = enabled
        self.console = Console(stderr=True)
        self.terminal = enabled and self.console.is_terminal
        self.stage, self.total, self._last = stage, total, 0.0
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.terminal,
        )
        self.task = self.progress.add_task(stage, total=total, completed=start, text="")

    def __enter__(self) -> Display:
        """Start drawing."""
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        self.progress.stop()

    def step(self, step: int, loss: float, lr: float, rate: float) -> None:
        """Show a finished step."""
        text = f"loss {loss:.4f}  lr {lr:.2e}  {rate:,.0f} tokens/s"
        self.progress.update(self.task, completed=step, text=text)
        now = time.monotonic()
        if self.enabled and not self.terminal and (now - self._last > 10 or step == self.total):
            self._last = now
            print(f"{self.stage}: step {step}/{self.total}  {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self.enabled:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
