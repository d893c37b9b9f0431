"""The folders of the cache: where they are, what they take, who uses them, and how they are cleared."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lensmith.errors import LensmithError
from lensmith.io.json import parse_json, read_json

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

ABOUT = "about.json"
VARIABLE = "LENSMITH_CACHE"
_FILLING, _USED = "filling.lock", "used.lock"


def default_folder() -> Path:
    """`features` in $LENSMITH_CACHE, else in the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`)/lensmith."""
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser().absolute() / "features"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "lensmith" / "features"


class Lock:
    """A lock on a file that the system lets go when the process ends, however it ends.

    Where the file system has no locks, everybody gets it: runs may then encode a picture twice, never wrongly.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def take(self, *, shared: bool = False) -> bool:
        """Whether it could be had, without waiting."""
        file = self.path.open("ab")
        try:
            if fcntl is not None:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError:
            pass
        self._file = file
        return True

    def release(self) -> None:
        """Let it go."""
        if self._file is not None:
            self._file.close()
            self._file = None


def filling_lock(folder: Path) -> Lock:
    """Held by the run that adds features to a folder."""
    return Lock(folder / _FILLING)


def used_lock(folder: Path) -> Lock:
    """Shared by the processes that read a folder."""
    return Lock(folder / _USED)


@dataclass(frozen=True)
class Cached:
    """The features of one encoder.

    Args:
        folder: where they are; its name is what they depend on.
        about: what that is.
        size: bytes.
        pictures: how many have features.
        used: when a stage used them last, in seconds since 1970.
    """

    folder: Path
    about: dict[str, Any]
    size: int
    pictures: int
    used: float

    @property
    def encoder(self) -> str:
        """The encoder, for people."""
        return str(self.about["encoder"].get("name") or self.about["encoder"].get("class", "?"))

    @property
    def idle_days(self) -> float:
        """Since it was used last."""
        return (time.time() - self.used) / 86400


def cached(root: Path) -> list[Cached]:
    """Every folder of a cache, the one that was used last first."""
    return sorted(_folders(root), key=lambda entry: -entry.used)


def held(root: Path) -> int:
    """Bytes that a cache takes."""
    return sum(_size(file) for file in root.glob("*/*"))


def clear(entry: Cached) -> int:
    """Delete the features of one encoder; returns the bytes that are free now.

    Raises:
        LensmithError: a training run uses or fills them.
    """
    locks = [used_lock(entry.folder), filling_lock(entry.folder)]
    try:
        if not all(lock.take() for lock in locks):
            raise LensmithError(f"{entry.folder} is used by a training run; clear it when that has ended")
        # It loses its name first, so that nobody begins to read what is being deleted.
        leaving = entry.folder.with_name(f".leaving-{entry.folder.name}")
        shutil.rmtree(leaving, ignore_errors=True)
        entry.folder.rename(leaving)
        shutil.rmtree(leaving)
    except OSError as error:
        raise LensmithError(f"{entry.folder} could not be deleted: {error}") from error
    finally:
        for lock in locks:
            lock.release()
    return entry.size


def mark_used(folder: Path) -> None:
    """Note that a stage reads a folder now."""
    os.utime(folder / ABOUT)


def _folders(root: Path) -> Iterator[Cached]:
    for about in root.glob(f"[!.]*/{ABOUT}"):
        folder = about.parent
        try:
            described = read_json(about)
            described["encoder"]["class"]
            shards = list(folder.glob("shard-*.safetensors"))
            pictures = sum(_pictures(shard) for shard in shards)
            size = sum(_size(file) for file in folder.iterdir())
            yield Cached(folder, described, size, pictures, about.stat().st_mtime)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no folder of this cache, or one that is being deleted


def _pictures(shard: Path) -> int:
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return int(parse_json(file.read(length), str(shard))["keys"]["shape"][0])


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:
        return 0
