"""Where the commands of a study run: here, one after another or side by side, or on a SLURM cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lensmith.errors import LensmithError


class Executor(Protocol):
    """Runs `lensmith ARGUMENTS` and waits for it."""

    workers: int
    """How many may run at once."""

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """Returns the exit code; what the command prints goes to the end of `log`."""

    def stop(self) -> None:
        """End what runs."""


class Local:
    """This machine.

    Args:
        jobs: commands at once.
        gpus: devices, or groups of them with commas; each command gets one of its own with a process for each device,
            and there are as many commands at once.
    """

    def __init__(self, jobs: int = 1, gpus: Sequence[str] = ()) -> None:
        self.workers = len(gpus) or jobs
        self._free = list(gpus)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """See `Executor.run`."""
        with self._lock:
            gpu = self._free.pop() if self._free else None
        try:
            environment = self._environment(gpu)
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                with self._lock:
                    if self._stopped:
                        return 130
                    command = _command(arguments, gpu.count(",") + 1 if gpu else 1)
                    process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
                    self._running.add(process)
                code = process.wait()
            with self._lock:
                self._running.discard(process)
            return code
        finally:
            if gpu is not None:
                with self._lock:
                    self._free.append(gpu)

    def _environment(self, gpu: str | None) -> dict[str, str]:
        """This process's, with its own device, and its share of the cores unless the user has said otherwise."""
        shared = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.workers))} if self.workers > 1 else {}
        return shared | os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})

    def stop(self) -> None:
        """Ask every command to stop; training leaves a checkpoint."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


class Slurm:
    """A SLURM cluster, by submitit.

    Args:
        folder: for submitit's files; must be seen by all nodes.
        jobs: jobs in the queue at once.
        cluster: `slurm`, or `local` to try it without one.
        options: of `submitit.AutoExecutor.update_parameters`, e.g. `slurm_partition`, `gpus_per_node` (a command starts
            as many processes), `timeout_min`.

    Raises:
        LensmithError: submitit is not installed, or does not take an option.
    """

    def __init__(self, folder: Path, jobs: int, options: Mapping[str, Any], cluster: str | None = None) -> None:
        try:
            import submitit
        except ImportError as error:
            text = "SLURM needs submitit; install it with: pip install 'lensmith[slurm]'"
            raise LensmithError(text) from error
        self.workers = jobs
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**{"timeout_min": 24 * 60, **options})
        except (NameError, RuntimeError, TypeError, ValueError) as error:
            raise LensmithError(f"submitit: {error}") from error
        self._processes = int(options.get("gpus_per_node") or 1)
        self._jobs: list[Any] = []

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """See `Executor.run`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        job = self._executor.submit(_run_command, _command(arguments, self._processes), str(log))
        self._jobs.append(job)
        try:
            return int(job.result())
        except Exception as error:  # submitit raises what went wrong on the node, of any class
            with log.open("a", encoding="utf-8") as file:
                file.write(f"\njob {job.job_id}: {error}\n")
            return 1

    def stop(self) -> None:
        """Cancel what is queued or runs."""
        for job in self._jobs:
            if not job.done():
                job.cancel()


def _command(arguments: Sequence[str], processes: int = 1) -> list[str]:
    several = ["--nproc", str(processes)] if processes > 1 else []
    return [sys.executable, "-m", "lensmith.cli", *arguments, *several]


def _run_command(command: Sequence[str], log: str) -> int:
    with Path(log).open("ab") as file:
        return subprocess.run(command, stdout=file, stderr=file, check=False).returncode
