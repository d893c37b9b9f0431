"""What the benchmarks share: run a process and say what it cost; medians; the page that is written."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
LENSMITH = str(Path(sys.executable).with_name("lensmith"))
"""The command of the environment that runs the benchmark."""


@dataclass(frozen=True)
class Cost:
    """Of one process, or medians of several.

    Args:
        wall: seconds from start to end.
        cpu: seconds of user and system time; hardly changed by what else the machine does.
        peak: largest resident memory in MB.
    """

    wall: float
    cpu: float
    peak: float


def run(command: Sequence[str], folder: Path) -> tuple[Cost, str]:
    """Run a command in a folder; its cost and what it printed.

    Raises:
        SystemExit: it failed; with what it said.
    """
    with (folder / "output").open("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{text}")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / unit), text


def interleave(jobs: Sequence[tuple[str, Callable[[], Cost]]], rounds: int) -> dict[str, list[Cost]]:
    """Every job once a round, each round from another job on, so that what slows the machine slows all alike.

    One round before the first fills the caches and is not counted.
    """
    costs: dict[str, list[Cost]] = {name: [] for name, _ in jobs}
    for number in range(-1, rounds):
        shift = number % len(jobs)
        for name, job in [*jobs[shift:], *jobs[:shift]]:
            cost = job()
            if number >= 0:
                costs[name].append(cost)
        print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return costs


def median(costs: Iterable[Cost]) -> Cost:
    """Each number's own median."""
    walls, cpus, peaks = zip(*((c.wall, c.cpu, c.peak) for c in costs), strict=True)
    return Cost(statistics.median(walls), statistics.median(cpus), statistics.median(peaks))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def versions(*distributions: str) -> str:
    """Python's version and those of distributions."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in distributions]
    return ", ".join([f"Python {platform.python_version()}", *found])


def publish(name: str, text: str, failures: Sequence[str]) -> int:
    """Print a page and write it to `results/`; the exit status."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0
