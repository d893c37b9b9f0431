"""Run units when what they need is there, several at once where that is allowed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from lensmith.ablation.executors import Executor
from lensmith.ablation.units import Unit


@dataclass(frozen=True)
class Failure:
    """A unit that did not end well.

    Args:
        unit: which.
        reason: its exit code, or the unit that it needed.
        log: what it printed.
    """

    unit: Unit
    reason: str
    log: Path | None


def run_units(units: Sequence[Unit], executor: Executor, tell: Callable[[str], None]) -> list[Failure]:
    """Run all that are not done; one failure leaves out only what depends on it.

    Args:
        units: in an order in which they can run.
        executor: where.
        tell: gets a line for each unit that begins or ends.
    """
    waiting = [unit for unit in units if not unit.done]
    total, begun = len(waiting), 0
    failed: dict[Path, Failure] = {}
    running: dict[Future[tuple[int, float]], Unit] = {}

    def one(unit: Unit) -> tuple[int, float]:
        start = time.monotonic()
        code = executor.run(unit.arguments(), unit.folder / "log.txt")
        return code, time.monotonic() - start

    with ThreadPoolExecutor(max_workers=executor.workers) as pool:
        try:
            while waiting or running:
                for unit in list(waiting):
                    needed = unit.needs
                    if needed is not None and needed.folder in failed:
                        failed[unit.folder] = Failure(unit, f"needs what failed: {needed.title}", None)
                        waiting.remove(unit)
                    elif (needed is None or needed.done) and len(running) < executor.workers:
                        waiting.remove(unit)
                        begun += 1
                        tell(f"[{begun}/{total}] {unit.title}")
                        running[pool.submit(one, unit)] = unit
                if not running:
                    continue
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    unit = running.pop(future)
                    code, seconds = future.result()
                    if code == 0 and unit.ended:
                        tell(f"  done in {_clock(seconds)}: {unit.title}")
                    else:
                        failed[unit.folder] = Failure(unit, f"exit code {code}", unit.folder / "log.txt")
                        tell(f"  FAILED with exit code {code}: {unit.title}; see {unit.folder / 'log.txt'}")
        except BaseException:
            executor.stop()
            raise
    return list(failed.values())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
