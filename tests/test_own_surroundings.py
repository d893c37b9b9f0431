"""The tests themselves: what they inherit from whoever starts them, and that deprecated calls of ours are seen."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from . import deprecations

ROOT = Path(__file__).parents[1]
# A script's background jobs ignore SIGINT, `nohup` adds SIGHUP, launchers others; some block signals instead.
_PARENT = """
import os, signal, sys
for name in ("INT", "HUP", "USR1", "CHLD"):
    signal.signal(getattr(signal, "SIG" + name), signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_V2_tests_do_not_inherit_how_signals_are_taken() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PARENT, "-m", "pytest", "-q", str(ROOT / "tests" / "signals_of_a_child.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def _module(folder: Path, name: str, text: str) -> SimpleNamespace:
    """A module that was read from a folder of our choice."""
    names: dict[str, object] = {"__name__": name}
    exec(compile(text, str(folder / f"{name}.py"), "exec"), names)
    return SimpleNamespace(**names)


@pytest.mark.parametrize(
    ("category", "level"), [("FutureWarning", 1), ("DeprecationWarning", 2), ("PendingDeprecationWarning", 5)]
)
def test_V3_a_deprecated_call_of_ours_is_seen(category: str, level: int, tmp_path: Path) -> None:
    """Whatever module its stack level blames, and through torch's and a library's own wrappers."""
    site = tmp_path / "site-packages"
    library = _module(
        site / "strange",
        "strange",
        f"import warnings\ndef deep(): warnings.warn('old', {category}, stacklevel={level})\ndef old(): deep()\n",
    )
    other = _module(site / "other", "other", "def call(f): f()\n")
    mine = _module(Path(deprecations.OURS[1]), "part", "def use(f, *rest): f(*rest)\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other.call(library.old)  # a library's own affair
        mine.use(other.call, library.old)
        assert list(deprecations.failures()) == []
        mine.use(library.old)
        assert [line.rpartition("/")[2] for line in deprecations.failures()] == ["part.py:1: old"]


def test_V3_what_a_library_only_logs_is_seen(tmp_path: Path) -> None:
    library = _module(
        tmp_path / "site-packages" / "strange",
        "strange",
        "import logging\ndef old(): logging.getLogger('strange').warning('`x` is deprecated')\n",
    )
    mine: Callable[..., None] = _module(Path(deprecations.OURS[0]), "part", "def use(f): f()\n").use
    mine(library.old)
    assert [line.rpartition("/")[2] for line in deprecations.failures()] == ["part.py:1: `x` is deprecated"]
