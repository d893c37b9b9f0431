"""Start several processes through DeepSpeed's launcher, and end them together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from lensmith.errors import TrainingError

WORKER = "LENSMITH_WORKER"


def is_worker() -> bool:
    """Whether this process was started by the launcher."""
    return WORKER in os.environ


def launch(arguments: Sequence[str], *, nproc: int, hostfile: Path | None = None) -> int:
    """Run `lensmith ARGUMENTS` on every rank.

    Args:
        arguments: of the command line, without the launching options.
        nproc: processes on this machine.
        hostfile: DeepSpeed's hostfile for several machines.

    Returns:
        The exit code.

    Raises:
        TrainingError: the hostfile is missing.
    """
    command = [sys.executable, "-m", "deepspeed.launcher.runner"]
    if hostfile is not None:
        if not hostfile.is_file():
            raise TrainingError(f"hostfile {hostfile} does not exist")
        command += ["--hostfile", str(hostfile)]
    else:
        command += ["--hostfile", os.devnull, "--num_gpus", str(nproc)]
    command += ["--master_port", str(_free_port()), "--log_level", "warning"]
    command += ["--no_local_rank", "--module", "lensmith.cli", *arguments]
    import torch

    follow = "" if hostfile is not None else str(os.getpid())
    environment = os.environ | {WORKER: follow, "OMP_NUM_THREADS": _threads(nproc)}
    environment.setdefault("DEEPSPEED_LOG_LEVEL", "error")  # else it warns that this machine has no hostfile
    if not torch.cuda.is_available():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    # A group of its own: a signal to us is passed to every worker, none lives on as an orphan.
    process = subprocess.Popen(command, env=environment, start_new_session=True)

    def forward(number: int, _: object) -> None:
        os.killpg(process.pid, number)

    previous = {n: signal.signal(n, forward) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _end_group(process.pid)


def end_with_launcher() -> None:
    """End this worker soon after the process that called `launch` is gone.

    A command that is killed outright cannot end its workers, which would go on writing into the run that a
    `--resume` takes up. Workers on other machines hang on their connection instead.
    """
    launcher = os.environ.get(WORKER, "")
    if launcher:
        threading.Thread(target=_follow, args=(int(launcher),), daemon=True).start()


def _follow(launcher: int) -> None:
    while True:
        try:
            os.kill(launcher, 0)
        except ProcessLookupError:
            os.kill(os.getpid(), signal.SIGKILL)
        except PermissionError:
            pass  # it lives
        time.sleep(0.5)


def _end_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _threads(nproc: int) -> str:
    return os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
