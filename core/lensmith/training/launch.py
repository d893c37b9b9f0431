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
from itertools import pairwise
from pathlib import Path

from lensmith.errors import TrainingError
from lensmith.io import chatter
from lensmith.spec.run import RunSpec

WORKER = "LENSMITH_WORKER"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""What asks a run to stop: a scheduler (which may send SIGUSR1, SIGUSR2 or, where time is up, SIGXCPU before it kills),
Ctrl-C, a terminal that closes."""
_PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""What DeepSpeed's launcher passes on to other machines; it dies of the others."""
_MODULE = "lensmith.cli"


def is_worker() -> bool:
    """Whether this process was started by the launcher."""
    return WORKER in os.environ


def launch(arguments: Sequence[str], *, nproc: int, hostfile: Path | None = None) -> int:
    """Run `lensmith ARGUMENTS` on every rank.

    Args:
        arguments: of the command line, without the launching options.
        nproc: processes on this machine.
        hostfile: DeepSpeed's hostfile for several machines.

    A signal to stop goes to the ranks alone, which finish their step, save and end; DeepSpeed's launcher would give
    them 30 seconds. A second one ends everything at once. On several machines DeepSpeed passes the signal on.

    Returns:
        The exit code: of the ranks, or 128 and the number of the signal that stopped them.

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
    port = str(_free_port())
    command += ["--master_port", port, "--log_level", "info" if chatter.verbose() else "error"]
    command += ["--no_local_rank", "--module", _MODULE, *arguments]
    import torch

    from lensmith.training import distributed

    follow = "" if hostfile is not None else str(os.getpid())
    environment = os.environ | {WORKER: follow, "OMP_NUM_THREADS": _threads(nproc)}
    environment.setdefault("DEEPSPEED_LOG_LEVEL", "error")  # else it warns that this machine has no hostfile
    if not torch.cuda.is_available():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    # A group of its own: Ctrl-C reaches it through us alone, and at the end none lives on as an orphan.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    stopped = 0

    def forward(number: int, _: object) -> None:
        nonlocal stopped
        again, stopped = bool(stopped), stopped or number
        if again and number == signal.SIGINT:
            _end_group(process.pid)
        elif not again:
            everyone = hostfile is not None
            sent = signal.SIGTERM if everyone and number not in _PASSED_ON else number
            _ask_to_stop(process.pid, sent, everyone=everyone)

    heard = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]
    previous = {n: signal.signal(n, forward) for n in heard}
    try:
        code = process.wait()
        return 128 + stopped if stopped and code else code
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _end_group(process.pid)
        for buffer in distributed.shared_memory(port):
            buffer.unlink(missing_ok=True)


def require_shares(spec: RunSpec, *, nproc: int, hostfile: Path | None, only: str | None) -> None:
    """See that the batches of the stages can be shared, before a process is started.

    Raises:
        TrainingError: the first one that cannot, or a hostfile that cannot be read.
    """
    from lensmith.training.dry_run import hosts_world
    from lensmith.training.feed import Split

    world = nproc if hostfile is None else hosts_world(hostfile) if hostfile.is_file() else 0
    for name, stage in spec.stages.items():
        if only in (None, name) and world:
            try:
                Split.of(stage, 0, world)
            except TrainingError as error:
                raise TrainingError(f"stages.{name}: {error}") from None


def end_with_launcher() -> None:
    """End this worker soon after the process that called `launch` is gone.

    A command that is killed outright cannot end its workers, which would go on writing into the run that a
    `--resume` takes up. Workers on other machines hang on their connection instead.
    """
    launcher = os.environ.get(WORKER, "")
    if launcher:
        threading.Thread(target=_follow, args=(int(launcher),), daemon=True).start()


def _follow(launcher: int) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        followed = psutil.Process(launcher)
        # A killed process whose parent has not asked about it yet is still listed, as a zombie.
        while followed.is_running() and followed.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def _ask_to_stop(group: int, number: int, *, everyone: bool) -> None:
    """Send a signal to the ranks below a launcher, or to all of its processes where none runs here yet."""
    ranks = [] if everyone else _ranks(group)
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, number)
    if not ranks:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)


def _ranks(launcher: int) -> list[int]:
    """Process ids of the ranks that a launcher started; not those of their own workers."""
    import psutil

    parents: dict[int, int] = {}
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(launcher).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                if ("-m", _MODULE) in pairwise(process.cmdline()):
                    parents[process.pid] = process.ppid()
    return [pid for pid, parent in parents.items() if parent not in parents]


def _end_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _threads(nproc: int) -> str:
    return os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
