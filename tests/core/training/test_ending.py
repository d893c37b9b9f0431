"""How the process of a rank ends."""

from __future__ import annotations

import os
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


COMMAND = """
import atexit, sys
atexit.register(print, "what a library left for the very end", flush=True)
sys.argv = ["lensmith", *{arguments}]
from lensmith.cli import main
main()
"""


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["check", "nowhere.yaml"], 2)])
def test_a_rank_ends_before_what_native_libraries_do_at_the_end(arguments: list[str], code: int) -> None:
    """Threads of theirs have aborted ranks whose work was done; the exit code stays the command's."""

    def last_line(environment: dict[str, str]) -> tuple[int, bool]:
        script = COMMAND.format(arguments=arguments)
        ended = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=False,
            env={k: v for k, v in os.environ.items() if k != "LENSMITH_WORKER"} | environment,
        )
        return ended.returncode, "the very end" in ended.stdout

    assert last_line({}) == (code, True)
    assert last_line({"LENSMITH_WORKER": ""}) == (code, False)
