"""What tests and the commands they start do with signals; run by `test_own_surroundings.py` under a hostile parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_child_can_be_interrupted(number: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    child.send_signal(number)
    child.communicate(timeout=20)
    assert child.returncode == -number


def test_a_test_can_be_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it is taken between two instructions
        os.kill(os.getpid(), signal.SIGINT)
        signal.sigtimedwait([], 5)
