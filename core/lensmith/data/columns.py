"""Columns of numbers about the rows of a file, worked out once and then mapped from a `.npy` file beside it.

A column's name holds what the file was when it was made (size, times, blocks of its content), so a column of another
content is never found, let alone read. Small files have none: they are worked out each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

FOLDER = ".lensmith"
"""Beside the file of rows."""
WORTH_KEEPING = 4 << 20
"""Bytes of a file from which on its columns are kept."""
_FORMAT = 1
_PURPOSES = 8
"""Columns of one kind that a file keeps: tokenizers, templates and fractions that take turns."""
_BLOCK = 1 << 16

Column = NDArray[Any]


def column(file: Path, kind: str, make: Callable[[], Column], depends: str = "") -> Column:
    """A column about a file: mapped where it is there, else made and, if it can be, kept.

    It is kept in `FOLDER` beside the file, or in the user's cache where that cannot be written. Of several processes
    that want it one makes it while the others wait; where the file system has no locks, each does.

    Args:
        file: the file of rows.
        kind: names the column.
        make: works it out.
        depends: what else it depends on, as text.
    """
    if file.stat().st_size < WORTH_KEEPING:
        return make()
    name = _name(file, kind, depends)
    made: Column | None = None
    for folder in (file.absolute().parent / FOLDER, _cache(file)):
        if (kept := _mapped(folder / name)) is not None:
            return kept
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                if (kept := _mapped(folder / name)) is not None:
                    return kept
                made = make() if made is None else made
                with tempfile.NamedTemporaryFile(dir=folder, prefix=".writing-", delete=False) as unfinished:
                    path = Path(unfinished.name)
                    try:
                        np.save(unfinished, made, allow_pickle=False)
                        unfinished.flush()
                        os.fsync(unfinished.fileno())
                        path.chmod(0o644)
                        # A file that changed meanwhile has a column of neither content.
                        if name != _name(file, kind, depends):
                            return made
                        path.replace(folder / name)
                    finally:
                        path.unlink(missing_ok=True)
                _forget(folder, file, kind, name)
                return made
        except OSError:
            continue  # read-only, or full
    return make() if made is None else made


def content_hash(file: Path, digest: Callable[[Path], str]) -> str:
    """Hash of a file's content, read again only when the file changed."""
    return bytes(column(file, "hash", lambda: np.frombuffer(digest(file).encode(), dtype=np.uint8))).decode()


def _name(file: Path, kind: str, depends: str) -> str:
    return f"{file.name}.{kind}.{_content(file)}.{hashlib.sha256(depends.encode()).hexdigest()[:16]}.npy"


def _content(file: Path) -> str:
    """What tells one content from another."""
    status = file.stat()
    said = [_FORMAT, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    digest = hashlib.sha256(json.dumps(said).encode())
    with file.open("rb") as opened:
        for start in (0, status.st_size // 2, max(0, status.st_size - _BLOCK)):
            opened.seek(start)
            digest.update(opened.read(_BLOCK))
    return digest.hexdigest()[:24]


def _cache(file: Path) -> Path:
    if own := os.environ.get("LENSMITH_CACHE"):
        root = Path(own).expanduser()
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lensmith"
    return root.absolute() / "rows" / hashlib.sha256(str(file.absolute().parent).encode()).hexdigest()[:16]


def _mapped(path: Path) -> Column | None:
    try:
        kept: Column = np.load(path, mmap_mode="r", allow_pickle=False)
        return kept
    except (OSError, ValueError, EOFError):
        return None  # not there, or damaged: made anew


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone in a folder, until this process leaves it or ends."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _forget(folder: Path, file: Path, kind: str, name: str) -> None:
    """Delete the columns of what the file was before, and of many purposes the oldest; who has one mapped keeps it."""
    content = name.rpartition(".npy")[0].rpartition(".")[0]
    now: list[tuple[float, Path]] = []
    for other in folder.iterdir():
        if not other.name.startswith(f"{file.name}.{kind}.") or other.suffix != ".npy":
            continue
        if not other.name.startswith(f"{content}."):
            other.unlink(missing_ok=True)
        elif other.name != name:
            with suppress(FileNotFoundError):
                now.append((other.stat().st_mtime, other))
    for _, other in sorted(now)[: -(_PURPOSES - 1)]:
        other.unlink(missing_ok=True)
