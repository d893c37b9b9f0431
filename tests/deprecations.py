"""Deprecated calls of ours, whichever library says so and whatever module it blames.

A warning's `stacklevel` often points into torch's or the library's own wrapper, so filters on modules miss it. Here the
stack is looked at: frames of the library that warns and of wrappers between are skipped; if the next frame is one of
our modules, the call was ours.
"""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

OURS = tuple(str(Path(__file__).parents[1] / folder) + os.sep for folder in ("core", "plugins", "registry"))
_SITE = tuple({sysconfig.get_paths()["purelib"] + os.sep, os.sep + "site-packages" + os.sep})
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
_WRAPPERS = ("torch/nn/modules/module.py", "torch/utils/_contextlib.py", "torch/_dynamo/", "torch/_compile.py")
_KINDS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
found: list[str] = []
"""What was seen since it was last emptied: message and place."""


def _library(file: str) -> str | None:
    """The package below site-packages that a file is of; empty for the standard library and wrappers, None for ours."""
    if file.startswith(OURS):
        return None
    if any(wrapper in file for wrapper in _WRAPPERS) or file.startswith("<"):
        return ""
    for root in _SITE:
        if root in file:
            return Path(file.rpartition(root)[2]).parts[0]
    return "" if file.startswith(_STDLIB) else file


def ours(frame: FrameType | None) -> str | None:
    """The place in our code whose call made a library warn; None where it was not ours.

    Args:
        frame: of the function that warns.
    """
    blamed = ""
    while frame is not None:
        library = _library(frame.f_code.co_filename)
        if library is None:
            # Where nobody stands between, the warning is our own, for the user's sake.
            return f"{frame.f_code.co_filename}:{frame.f_lineno}" if blamed else None
        if library and blamed and library != blamed:
            return None  # one library calls another
        blamed = blamed or library or "the standard library"
        frame = frame.f_back
    return None


def _note(message: Any, frame: FrameType) -> None:
    if place := ours(frame):
        found.append(f"{place}: {message}")


def watch() -> None:
    """From now on note deprecated calls of ours: those of `warnings`, and those that libraries only log."""
    plain, log = warnings.warn, logging.Logger.warning

    def warn(message: Any, category: Any = None, stacklevel: int = 1, source: Any = None, **rest: Any) -> None:
        kind = type(message) if isinstance(message, Warning) else category or UserWarning
        if isinstance(kind, type) and issubclass(kind, _KINDS):
            _note(message, sys._getframe(1))
        plain(message, category, stacklevel + 1, source, **rest)

    def warning(self: logging.Logger, msg: object, *arguments: Any, **rest: Any) -> None:
        if "deprecated" in str(msg) and not self.name.startswith("lensmith"):
            _note(msg, sys._getframe(1))
        log(self, msg, *arguments, **{"stacklevel": 2, **rest})

    warnings.warn = warn  # type: ignore[assignment]
    logging.Logger.warning = warning  # type: ignore[method-assign, assignment]


def failures() -> Iterator[str]:
    """What was noted, each once, and forgotten with that."""
    seen = dict.fromkeys(found)
    found.clear()
    yield from seen
