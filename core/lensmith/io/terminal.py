"""Standard output and standard error that are safe to print a stranger's words on.

Names, keys and messages of files, plugins and models may hold terminal control sequences (ESC, OSC, BEL), half
surrogates, or letters that the stream's encoding does not have. The `lensmith` command prints through `guarded`
streams, which show all of these escaped; what draws on a terminal itself (progress) writes to the `raw` stream.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, marks that change the direction of text, and half surrogates."""
_PLAIN = str.maketrans(
    {
        "…": "...",
        "–": "-",
        "—": "-",
        "−": "-",
        "×": "x",
        "·": "-",
        "•": "*",
        "≥": ">=",
        "≤": "<=",
        "±": "+-",
        "→": "->",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
    }
)


def visible(text: str) -> str:
    r"""The text with control characters written as JSON writes them, e.g. `\u001b`; tabs and newlines stay."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def encodes_unicode(stream: Any = None) -> bool:
    """Whether a stream (by default standard output) can write every character."""
    name = getattr(stream if stream is not None else sys.stdout, "encoding", None) or "utf-8"
    return name.lower().replace("_", "-").startswith(("utf-8", "utf8", "utf-16", "utf-32"))


class _Guarded:
    """A text stream that shows control characters escaped, and what its encoding lacks in a plain form."""

    def __init__(self, unguarded: IO[str], name: str) -> None:
        self.unguarded = unguarded
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)

    def write(self, text: str) -> int:
        with self._named():
            shown = visible(text)
            try:
                self.unguarded.write(shown)
            except UnicodeEncodeError:
                encoding = getattr(self.unguarded, "encoding", None) or "ascii"
                plain = shown.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
                self.unguarded.write(plain)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._named():
            self.unguarded.flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """An error of the system says which stream could not be written."""
        try:
            yield
        except OSError as error:
            if error.filename is None:
                error.filename = self._name
            raise


def raw(stream: IO[str]) -> IO[str]:
    """The stream below a guard, for text of our own that moves the cursor."""
    found: IO[str] = getattr(stream, "unguarded", stream)
    return found


def console(*, stderr: bool = True) -> Console:
    """A Rich console on standard error or output. Strangers' words go through `visible` before it gets them."""
    from rich.console import Console

    return Console(file=raw(sys.stderr if stderr else sys.stdout))


@contextmanager
def guarded() -> Iterator[None]:
    """Within it, `sys.stdout` and `sys.stderr` are safe to print anything on."""
    before = sys.stdout, sys.stderr
    guards: list[Any] = [
        stream if stream is None or isinstance(stream, _Guarded) else _Guarded(stream, name)
        for stream, name in zip(before, ("standard output", "standard error"), strict=True)
    ]
    sys.stdout, sys.stderr = guards
    try:
        yield
    finally:
        # Whatever put another stream in place since keeps it.
        if sys.stdout is guards[0]:
            sys.stdout = before[0]
        if sys.stderr is guards[1]:
            sys.stderr = before[1]
