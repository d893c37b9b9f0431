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


LEAST = Cost(wall=0.05, cpu=0.05, peak=2.0)
"""What two runs of one process differ by on a quiet machine: the least resolution of a difference of two processes."""


def resolution(bare: Sequence[Cost], what: str) -> float:
    """Below what a difference to a process that was measured so often says nothing: its spread, at least `LEAST`."""
    found = [getattr(cost, what) for cost in bare]
    return max(getattr(LEAST, what), max(found, default=0.0) - min(found, default=0.0))


def shown(value: float, least: float, digits: int = 3) -> str:
    """A difference, or that it is below the resolution."""
    if value >= least:
        return f"{value:.{digits}f}"
    return f"< {round(least, digits) or least:g}"


@dataclass(frozen=True)
class Times:
    """How many times as much one difference is as another, in each round.

    Args:
        values: sorted; where the smaller difference is below the resolution, the number for the resolution itself.
        bound: whether that is so of the middle one, so that it is at least so many times.
    """

    values: tuple[float, ...]
    bound: bool

    @property
    def middle(self) -> float:
        """The median."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{'more than ' if self.bound else ''}{self.middle:.0f} times"


def times(larger: Sequence[float], smaller: Sequence[float], least: float) -> Times:
    """Ratios of differences round by round, none of which claims more than was measured."""
    values = sorted(more / max(less, least) for more, less in zip(larger, smaller, strict=True))
    return Times(tuple(values), statistics.median(smaller) < least)


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


def draw(name: str, groups: dict[str, dict[str, tuple[float, float, float]]], label: str) -> None:
    """Bars with their ranges, one group above the other, as `results/NAME.svg`.

    Args:
        name: of the file.
        groups: by group and variant: lowest, median and highest ratio.
        label: what is drawn.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    count = sum(len(variants) for variants in groups.values())
    figure = Figure(figsize=(8, 0.35 * count + 0.5 * len(groups) + 0.8), layout="constrained")
    panel = figure.subplots()
    at, ticks, names = 0.0, [], []
    for group, variants in groups.items():
        for variant, (low, middle, high) in variants.items():
            panel.barh(at, middle, xerr=[[middle - low], [high - middle]], capsize=2, color="C0", height=0.7)
            ticks.append(at)
            names.append(f"{group}: {variant}")
            at += 1
        at += 0.6
    panel.set_yticks(ticks, names)
    panel.invert_yaxis()
    panel.axvline(1.0, color="0.5", linewidth=0.8)
    panel.set_xlabel(label)
    RESULTS.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "lensmith"}):
        figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
