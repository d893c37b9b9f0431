"""Folders that are whole or not there: temporary name, fsync, rename; and hashes of what they hold."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lensmith.errors import ArtifactError

_TEMPORARY = ".writing-"


@contextmanager
def atomic_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A new folder that appears under its name only when it is complete and on disk.

    Args:
        target: its final name.
        replace: take the place of a folder that is there; else that is an error.

    Raises:
        ArtifactError: the target exists, or the disk is full; nothing half-written stays.
    """
    target = target.absolute()
    if target.exists() and not replace:
        raise ArtifactError(f"{target} exists already; choose another folder, or delete it")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{_TEMPORARY}{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        sync(temporary)
        if target.exists():
            old = target.with_name(f"{_TEMPORARY}old-{target.name}")
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(target)
        _sync_one(target.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(target.parent).free
            raise ArtifactError(
                f"the disk is full ({free / 1e6:.0f} MB free) while writing {target}; make room and go on with --resume"
            ) from error
        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


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


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def inventory(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of every file below a folder, by relative name."""
    return {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def verify(folder: Path, expected: dict[str, dict[str, Any]]) -> list[str]:
    """What of an inventory is missing or differs, as messages."""
    problems = []
    for name, entry in expected.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != entry["size"]:
            problems.append(f"{name} has {path.stat().st_size} bytes, not {entry['size']}")
        elif sha256(path) != entry["sha256"]:
            problems.append(f"{name} was changed (its hash differs)")
    return problems
