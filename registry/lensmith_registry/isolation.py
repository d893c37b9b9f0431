"""Code of plugins runs so that it can neither end the process nor write into what a command prints."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn


@dataclass
class Watch:
    """What happened while a plugin's code ran."""

    interrupted: bool = False
    """Whether the user pressed Ctrl-C; a KeyboardInterrupt without it was raised by the plugin."""


class EndedProcess(RuntimeError):
    """A plugin called `os._exit`, which would have ended the command with that code and no word."""


@contextmanager
def isolated() -> Iterator[Watch]:
    """Within it, what is printed goes to standard error and `os._exit` raises `EndedProcess`.

    What the code raises is the caller's to catch; `Watch.interrupted` tells a user's Ctrl-C from a KeyboardInterrupt
    that the code itself raised.
    """
    with redirect_stdout(sys.stderr), _no_exit(), _watched() as watch:
        yield watch


@contextmanager
def _no_exit() -> Iterator[None]:
    process, before = os.getpid(), os._exit

    def refuse(status: int = 0) -> NoReturn:
        if os.getpid() != process:  # a child that the code forked must end so
            before(status)
        raise EndedProcess(f"called os._exit({status})")

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = before


@contextmanager
def _watched() -> Iterator[Watch]:
    watch = Watch()
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not (usual and threading.current_thread() is threading.main_thread()):
        watch.interrupted = True  # nobody can tell, so that a KeyboardInterrupt is taken for the user's
        yield watch
        return

    def interrupt(number: int, frame: FrameType | None) -> Any:
        watch.interrupted = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield watch
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:  # else the plugin has put its own
            signal.signal(signal.SIGINT, signal.default_int_handler)
