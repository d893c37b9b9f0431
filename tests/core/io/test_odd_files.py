"""Files that are no regular files: refused in one line, never waited for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lensmith.ablation.study import read_study
from lensmith.errors import LensmithError
from lensmith.evaluation.files import read_table, read_text
from lensmith.evaluation.suite import read_suite
from lensmith.locking import lock_file, read_lock
from lensmith.plotting import plot
from lensmith.spec import load_spec
from lensmith.training.dry_run import hosts_world


def _metrics(path: Path) -> None:
    folder = path.parent / "run" / "metrics"
    folder.mkdir(parents=True)
    path.rename(folder / "align.jsonl")
    plot([path.parent / "run"], path.parent / "plots")


def _lock(path: Path) -> None:
    spec = path.with_name("spec.yaml")
    path.rename(lock_file(spec))
    read_lock(spec)


READERS: dict[str, Callable[[Path], object]] = {
    "spec": load_spec,
    "study": read_study,
    "suite": read_suite,
    "lock": _lock,
    "hostfile": hosts_world,
    "predictions": read_text,
    "table": read_table,
    "metrics": _metrics,
}


def _odd(kind: str, path: Path) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    elif kind == "link to an endless device":
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "link to an endless device"])
@pytest.mark.parametrize("reader", READERS)
def test_A10_what_is_no_regular_file_is_refused(reader: str, kind: str, tmp_path: Path) -> None:
    path = _odd(kind, tmp_path / "odd.yaml")
    with pytest.raises(LensmithError) as refused:
        READERS[reader](path)
    assert "not a regular file" in str(refused.value) or "does not exist" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("command", [["check"], ["plan"], ["ablate", "--dry-run"]])
def test_A10_commands_do_not_wait_for_a_pipe(command: list[str], tmp_path: Path) -> None:
    path = _odd("pipe", tmp_path / "spec.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "lensmith.cli", command[0], str(path), *command[1:]],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "not a regular file" in done.stderr
