"""Folders that are whole or not there: temporary name, fsync, rename; and hashes of what they hold."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lensmith.errors import ArtifactError, LensmithError, OutputError

_TEMPORARY = ".writing-"
_PROBE = 1 << 20
_BLOCK, _BLOCKS = 1 << 16, 64


@contextmanager
def atomic_folder(target: Path, *, replace: bool = False, need: int = 0) -> Iterator[Path]:
    """A new folder that appears under its name only when it is complete and on disk.

    While it is written, no other process can write a folder of that name.

    Args:
        target: its final name.
        replace: take the place of a folder that is there; else that is an error.
        need: bytes that it will take at least, looked for before anything is written.

    Raises:
        ArtifactError: the target exists, cannot be made, or is being written by another process, or the disk is full;
            nothing half-written stays.
    """
    target = target.absolute()
    with _told(target):
        if os.path.lexists(target) and not (replace and target.exists()):
            there = "exists already" if target.exists() else "is a link to something that is not there"
            raise ArtifactError(f"{target} {there}; choose another folder, or delete it")
        if target.exists() and not target.is_dir():
            raise ArtifactError(f"{target} is a file; choose another folder, or delete it")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = _claim(target, replace=replace)
    try:
        require_space(target, need)
        temporary = temporary_name(target)
        yield temporary
        with _told(target):
            publish(temporary, target)
    except BaseException as error:
        full = isinstance(error, Exception) and disk_is_full(error, target.parent)
        message = full_disk_message(target, need) if full else ""
        shutil.rmtree(temporary_name(target), ignore_errors=True)
        if full:
            raise ArtifactError(message) from error
        raise
    finally:
        os.close(handle)


def _claim(target: Path, *, replace: bool) -> int:
    """Make the empty temporary folder of `target` and lock it; the lock is held until the handle is closed.

    The lock is one on the folder itself, so that a kill leaves nothing that must be cleared away.

    Raises:
        ArtifactError: another process has it, or has just finished.
    """
    temporary = temporary_name(target)
    while True:
        temporary.mkdir(exist_ok=True)
        handle = os.open(temporary, os.O_RDONLY)
        if not lock(handle):
            os.close(handle)
            raise ArtifactError(f"{target} is being written by another process; wait for it, or choose another folder")
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), temporary.stat()):
                break
        os.close(handle)  # whoever held the lock has renamed or deleted the folder since
        if target.exists() and not replace:
            raise ArtifactError(f"{target} has just been written by another process; choose another folder")
    for left in temporary.iterdir():  # by a kill
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
    return handle


def lock(handle: int) -> bool:
    """Lock an open file or folder for this process, without waiting.

    Returns:
        Whether no other process has it; also true where the file system has no locks.
    """
    with suppress(ImportError, OSError):  # no such locks on Windows and some file systems
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """What the system says of an output folder that cannot be made, as an error that names it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ArtifactError(f"{target} cannot be written: {error.strerror or error}; choose another folder") from error


def temporary_name(target: Path) -> Path:
    """Where a folder is written before it gets its name."""
    return target.with_name(f"{_TEMPORARY}{target.name}")


def begin(target: Path) -> Path:
    """An empty folder to write, under the temporary name of `target`."""
    temporary = temporary_name(target)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def publish(temporary: Path, target: Path) -> None:
    """Flush a folder to the disk and give it its name; a folder that has the name makes way."""
    sync(temporary)
    old = _nameless(target)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    _sync_one(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove(folder: Path) -> None:
    """Delete a folder that others may look at: it loses its name first, so that it never looks whole when it is not."""
    nameless = _nameless(folder)
    folder.rename(nameless)
    shutil.rmtree(nameless, ignore_errors=True)


def _nameless(folder: Path) -> Path:
    nameless = folder.with_name(f"{_TEMPORARY}old-{folder.name}")
    shutil.rmtree(nameless, ignore_errors=True)
    return nameless


def sweep(folder: Path) -> None:
    """Delete what a kill left half-written or half-deleted in a folder."""
    for left in folder.glob(f"{_TEMPORARY}*") if folder.is_dir() else ():
        shutil.rmtree(left, ignore_errors=True)


def require_space(target: Path, need: int) -> None:
    """Look for room before writing.

    Args:
        target: what is to be written, in a folder that is there.
        need: bytes.

    Raises:
        ArtifactError: there is less.
    """
    if shutil.disk_usage(target.parent).free < need:
        raise ArtifactError(full_disk_message(target, need))


def full_disk_message(target: Path, need: int) -> str:
    """What a user must know when a disk is full, and what to do.

    Args:
        target: what is to be written; what there is of it is deleted after this.
        need: bytes that it takes at least.
    """
    place = next(folder for folder in target.parents if folder.exists())
    room = shutil.disk_usage(place).free + held(temporary_name(target))
    return (
        f"the disk is full: {target} takes {size(max(need, room))} or more and there is room for {size(room)};"
        " make room and start again (a training run with --resume)"
    )


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Whether an error comes from a full disk.

    Writers in C++ and Rust (torch, safetensors) say only that they could not write, so where no error number says it,
    the disk is asked: before what was written is deleted, another megabyte must not fit.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, LensmithError):
        return False
    probe = folder / f"{_TEMPORARY}probe"
    try:
        with probe.open("wb") as file:
            file.write(bytes(_PROBE))
        return False
    except OSError as failed:
        return failed.errno in (errno.ENOSPC, errno.EDQUOT)
    finally:
        with suppress(OSError):
            probe.unlink()


def names(folder: Path) -> set[str]:
    """Relative names of the files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def held(folder: Path) -> int:
    """Bytes of the files below a folder, 0 where it is not there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def size(count: int) -> str:
    """Bytes for a reader."""
    amount, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:,.0f} {unit}"


def sync(folder: Path) -> None:
    """Flush every file and folder below to the disk."""
    for path in sorted(folder.rglob("*")):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says while a file is written, as an error that names the file.

    Raises:
        OutputError: the disk is full, the folder is not there, …
    """
    try:
        yield
    except OSError as error:
        room = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "make room and start again" if room else "name another place"
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; {cure}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with writing(path):
        if path.exists() and not path.is_file():  # a device, or a pipe to another process
            path.write_bytes(data)
            return
        temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
        try:
            temporary.write_bytes(data)
            _sync_one(temporary)
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for text, in UTF-8; half surrogates of a model's or a stranger's text are written as `?`."""
    write_bytes(path, text.encode("utf-8", "replace"))


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def save_figure(figure: Any, path: Path, **options: Any) -> None:
    """Write a matplotlib figure, whole or not at all, in the format that the file's suffix names."""
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix.removeprefix("."), **options)
    write_bytes(path, data.getvalue())


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


_known: dict[tuple[str, int, int], str] = {}


def known_sha256(path: Path) -> str:
    """Hash of a file's content, computed once a process as long as its size and time of change stay."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _known:
        _known[key] = sha256(path)
    return _known[key]


def sketch(path: Path) -> str:
    """Hash of a file's size and of blocks all over it: tells other weights from the same ones at once, however large.

    It does not find a single changed byte, for which there is `sha256`.
    """
    total = path.stat().st_size
    digest = hashlib.sha256(str(total).encode())
    step = max(_BLOCK, total // _BLOCKS)
    with path.open("rb") as file:
        for start in range(0, total, step):
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def inventory(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of every file below a folder, by relative name."""
    return {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def verify(folder: Path, expected: dict[str, dict[str, Any]], *, digest: Callable[[Path], str] = sha256) -> list[str]:
    """What of an inventory is missing or differs, as messages.

    Args:
        folder: where the files are.
        expected: what `inventory` said of them.
        digest: `sha256`, or `known_sha256` where unchanged files need not be read again.
    """
    problems = []
    for name, entry in expected.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != entry["size"]:
            problems.append(f"{name} has {path.stat().st_size} bytes, not {entry['size']}")
        elif digest(path) != entry["sha256"]:
            problems.append(f"{name} was changed (its hash differs)")
    return problems
