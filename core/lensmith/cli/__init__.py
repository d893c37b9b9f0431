"""The `lensmith` command. Importing it is cheap: commands import what they compute with when they run."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys

from lensmith.io.terminal import guarded

TRACEBACK = "LENSMITH_TRACEBACK"
"""Set to anything but 0: an error that nobody foresaw prints its traceback."""


def main() -> None:
    """Entry point: run the command; mistakes of a user end with one message and exit code 2."""
    gc.disable()  # commands that take longer enable it again
    # pydantic looks for plugins of its own in every distribution; set it to nothing to have them.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    outcome = _Outcome()
    if "LENSMITH_WORKER" in os.environ:  # see `lensmith.training.launch`
        atexit.register(outcome.end)
    try:
        with guarded():
            code = outcome.code = _flushed(_run())
    finally:
        if "torch" not in sys.modules:
            gc.freeze()  # a last search for cycles takes a seventh of a short command's time, and the process ends
    sys.exit(code)


class _Outcome:
    """How a rank ends: after Python's exit handlers of everything that it imported, before those of native libraries.

    Threads of gloo that outlive Python abort the exit of some ranks ("terminate called without an active exception"),
    whose work is done and written by then.
    """

    code = 1

    def end(self) -> None:
        """End the process with the code; registered first, it runs last."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(self.code)


def _run() -> int:
    """Run the command of `sys.argv`; its exit code, after saying on standard error what went wrong."""
    from lensmith.cli.commands import build
    from lensmith.errors import Interrupted, LensmithError
    from lensmith_registry import RegistryError

    try:
        build(only=sys.argv[1] if len(sys.argv) > 1 else None)()
    except SystemExit as ended:
        return _code(ended)
    except Interrupted as stopped:
        if str(stopped):
            _say(str(stopped))
        return 128 + stopped.signal
    except (LensmithError, RegistryError) as error:
        _say(f"error: {error}")
        return 2
    except BrokenPipeError:
        return _reader_left()
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except Exception as error:
        return _unforeseen(error)
    return 0


def _code(ended: SystemExit) -> int:
    """The exit code of `sys.exit`, whose argument may be a message."""
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    _say(str(ended.code))
    return 1


def _unforeseen(error: Exception) -> int:
    """One line about an error that is not ours: what the system refused, else a fault that should be reported."""
    if os.environ.get(TRACEBACK, "0") not in ("", "0"):
        import traceback

        _say("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, OSError) and error.filename is not None:
        _say(f"error: {_one_line(error.filename)}: {error.strerror or type(error).__name__}")
        return 2
    _say(
        f"error: unexpected {type(error).__name__}: {_one_line(error) or 'no message'}. This is a fault of Lensmith or"
        f" of a plugin: please report it with the output of `lensmith doctor`; {TRACEBACK}=1 prints where it happened"
    )
    return 70


def _one_line(value: object) -> str:
    """A message without its line breaks, cut where it is very long."""
    text = " ".join((os.fsdecode(value) if isinstance(value, bytes) else str(value)).split())
    return text if len(text) <= 500 else f"{text[:500]} …"


def _flushed(code: int) -> int:
    """The exit code once what was printed has arrived: output that was lost is no success."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except OSError as error:
        _to_nowhere()
        _say(f"error: {error.filename or 'standard output'}: {error.strerror}")
        return code or 2
    except ValueError:  # closed by somebody; there is nothing to lose
        return code
    return code


def _reader_left() -> int:
    """Whoever read the output has left, as `head` does: end quietly, with the code of a process that SIGPIPE ended."""
    _to_nowhere()
    return 141


def _to_nowhere() -> None:
    """Let Python's own last flush of standard output succeed."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return


def _say(text: str) -> None:
    """A line on standard error, where there is one that can be written."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


__all__ = ["main"]
