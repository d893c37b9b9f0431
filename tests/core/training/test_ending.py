"""How the process of a rank ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

RANK = """
import atexit
atexit.register(lambda: print(f"in a group at the end: {torch.distributed.is_initialized()}", flush=True))
import torch
from lensmith.training import distributed
distributed.start()
assert torch.distributed.is_initialized()
"""


@pytest.mark.parametrize(("last", "code"), [("", 0), ("raise SystemExit(2)", 2), ("raise RuntimeError", 1)])
def test_a_rank_leaves_its_group_while_python_still_runs(last: str, code: int) -> None:
    """torch aborts about one exit in twenty of those who do not, whatever their exit code was to be."""
    ended = subprocess.run([sys.executable, "-c", RANK + last], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (code, "in a group at the end: False\n"), ended.stderr
