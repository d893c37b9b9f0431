"""Where the numbers of a step go: the display, the metrics file, and the loggers that the spec names."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from lensmith.errors import TrainingError
from lensmith.spec.network_loggers import wandb_server
from lensmith.spec.run import LoggingSpec
from lensmith.spec.stage_check import missing
from lensmith.training import distributed
from lensmith.training.progress import Display, Metrics

_CONNECTING, _STARTING, _CLOSING = 5, 30, 60
"""Seconds that a network logger may take to be reached, to start and to end."""
_NO_NETWORK = ("offline", "disabled", "dryrun")


class Logger(Protocol):
    """Takes the numbers of a step."""

    def write(self, entry: dict[str, Any]) -> None:
        """One step: `step`, `loss`, `lr` by group, `gradient_norm`, `targets`, `tokens`, `skipped`, `seconds`."""

    def close(self) -> None:
        """No more steps."""


class StepLog:
    """All of them together; nothing is shown or written on ranks other than 0."""

    def __init__(self, display: Display, loggers: Iterable[Logger]) -> None:
        self.display = display
        self.loggers = list(loggers)

    def __enter__(self) -> StepLog:
        """Start drawing."""
        self.display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing, close files."""
        self.display.__exit__(kind, error, trace)
        for logger in list(self.loggers):
            if isinstance(logger, Metrics):
                logger.close()
            else:
                self._with(logger, lambda: within(_CLOSING, logger.close))  # noqa: B023 - called at once

    def step(self, entry: dict[str, Any], messages: Iterable[str] = ()) -> None:
        """Show and write a finished step.

        Args:
            entry: see `Logger.write`.
            messages: lines for the user.
        """
        rate = max(entry["lr"].values())
        self.display.step(entry["step"], entry["loss"], rate, entry["tokens"], entry["seconds"])
        for message in messages:
            self.display.say(message)
        stamped = entry | {"time": round(time.time(), 3)}
        for logger in list(self.loggers):
            if isinstance(logger, Metrics):
                logger.write(stamped)  # the run's own record: a disk that is full ends it
            else:
                self._with(logger, lambda: logger.write(stamped))  # noqa: B023 - called at once

    def _with(self, logger: Logger, action: Callable[[], object]) -> None:
        """Have a logger do something; one that cannot is left out from then on, and said so, for no run ends by it."""
        try:
            action()
        except Exception as error:
            self.loggers.remove(logger)
            self.display.say(f"warning: {_failed(logger, error)}; the run goes on without it")


def open_log(
    spec: LoggingSpec, run: Path, stage: str, start: int, steps: int, settings: Mapping[str, Any] | None = None
) -> StepLog:
    """The log of a stage.

    Args:
        spec: the loggers.
        run: folder of the run; files go below `metrics`.
        stage: name of the stage.
        start: steps done; what was logged after them is replaced.
        steps: of the stage.
        settings: what a logger may show beside the numbers.

    Raises:
        TrainingError: a logger's package is not installed, with what to install.
    """
    main = distributed.rank() == 0
    display = Display(stage, start, steps, enabled=main)
    loggers: list[Logger] = []
    if main:
        folder = run / "metrics"
        loggers.append(Metrics(folder / f"{stage}.jsonl", start))
        makers: dict[str, Callable[[], Logger]] = {
            "tensorboard": lambda: TensorBoard(folder / "tensorboard" / stage, start),
            "wandb": lambda: WeightsAndBiases(folder, spec.project, run.name, stage, settings or {}),
        }
        for name in spec.loggers:
            try:
                loggers.append(makers[name]())
            except TrainingError:
                raise
            except Exception as error:
                display.say(f"warning: {name} cannot be used: {_said(error)}; the run goes on without it")
    return StepLog(display, loggers)


def within(seconds: float, action: Callable[[], object]) -> None:
    """Do something that may wait for a network, for so long at most.

    Raises:
        TimeoutError: it has not ended; it is left to itself.
        Exception: what it raised.
    """
    failure: list[Exception] = []

    def run() -> None:
        try:
            action()
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"it did not end within {seconds:g} s")
    if failure:
        raise failure[0]


def prepare(spec: LoggingSpec) -> None:
    """Before weights are loaded: look whether the network loggers are there, and say what happens if they are not.

    Weights & Biases that cannot be reached keeps its records in the run's folder, as it does offline.
    """
    if "wandb" not in spec.loggers or distributed.rank() != 0 or os.environ.get("WANDB_MODE") in _NO_NETWORK:
        return
    host, port = wandb_server()
    try:
        socket.create_connection((host, port), timeout=_CONNECTING).close()
    except OSError as error:
        os.environ["WANDB_MODE"] = "offline"
        print(
            f"warning: Weights & Biases cannot be reached ({host}: {_said(error)}); its records stay in the run's"
            " folder, `wandb sync` sends them later (WANDB_MODE=offline says so beforehand)",
            file=sys.stderr,
        )


def _failed(logger: Logger, error: Exception) -> str:
    return f"{type(logger).__name__} failed: {_said(error)}"


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """A step's numbers by the names that loggers show."""
    numbers = {f"lr/{group}": rate for group, rate in entry["lr"].items()}
    numbers |= {"loss": entry["loss"], "tokens_per_second": entry["tokens"] / entry["seconds"]}
    if entry["gradient_norm"] is not None:
        numbers["gradient_norm"] = entry["gradient_norm"]
    return numbers


class TensorBoard:
    """Event files; TensorBoard itself leaves out what a resumed run does again."""

    def __init__(self, folder: Path, start: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(f"logging.loggers: {missing('tensorboard', 'tensorboard')}") from error
        self._writer = SummaryWriter(str(folder), purge_step=start + 1)

    def write(self, entry: dict[str, Any]) -> None:
        """See `Logger.write`."""
        for name, value in scalars(entry).items():
            self._writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """See `Logger.close`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases for each stage, grouped by the run's folder; a resumed stage continues its run.

    Steps that are done again are the same numbers, and Weights & Biases keeps the first. Its own environment variables
    (`WANDB_MODE=offline` and the like) are obeyed.
    """

    def __init__(self, folder: Path, project: str, run: str, stage: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise TrainingError(f"logging.loggers: {missing('wandb', 'wandb')}") from error
        os.environ.setdefault("WANDB_INIT_TIMEOUT", str(_STARTING))
        os.environ.setdefault("WANDB_SILENT", "true")
        note = folder / f"{stage}.wandb"
        known = note.read_text(encoding="utf-8").strip() if note.is_file() else None
        self._run = wandb.init(
            project=project,
            group=run,
            name=f"{run}/{stage}",
            id=known,
            resume="allow" if known else None,
            dir=str(folder),
            config=dict(settings),
        )
        note.write_text(f"{self._run.id}\n", encoding="utf-8")

    def write(self, entry: dict[str, Any]) -> None:
        """See `Logger.write`."""
        self._run.log(scalars(entry), step=entry["step"])

    def close(self) -> None:
        """See `Logger.close`."""
        self._run.finish()
