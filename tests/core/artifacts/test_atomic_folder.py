"""A folder is whole or not there: after errors, a full disk, and a kill."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lensmith.errors import ArtifactError
from lensmith.files import atomic_folder, inventory, verify


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(target: Path, error: BaseException, *, replace: bool = False) -> None:
    """Begin a folder and fail."""
    with atomic_folder(target, replace=replace) as folder:
        (folder / "half").write_text("x")
        raise error


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "artifact"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("a")
        assert folder.parent == target.parent  # so that a rename is enough
        assert not target.exists()
    assert (target / "a").read_text() == "a"
    assert names(target.parent) == ["artifact"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "a", KeyboardInterrupt())
    assert names(tmp_path) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    with pytest.raises(ArtifactError, match="exists already; choose another folder, or delete it"):
        write_half(tmp_path / "a", AssertionError("must not begin"))
    assert names(tmp_path / "a") == ["old"]


def test_replacing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "a", RuntimeError(), replace=True)
    assert names(tmp_path / "a") == ["old"]
    with atomic_folder(tmp_path / "a", replace=True) as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path / "a") == ["new"]
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_so(tmp_path: Path, number: int) -> None:
    with pytest.raises(ArtifactError, match=r"the disk is full: .*/a takes .* or more and there is room for"):
        write_half(tmp_path / "a", OSError(number, os.strerror(number)))
    assert names(tmp_path) == []


def test_a_full_disk_when_flushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write() -> None:
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "file").write_text("x")
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(ArtifactError, match="the disk is full"):
        write()
    assert names(tmp_path) == []


def test_other_errors_of_the_system_pass(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        write_half(tmp_path / "a", PermissionError(errno.EACCES, "no"))
    assert names(tmp_path) == []


def test_everything_is_flushed_before_the_name_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, flushed = tmp_path / "a", []
    fsync = os.fsync

    def note(handle: int) -> None:
        flushed.append((Path(f"/proc/self/fd/{handle}").readlink().name, target.exists()))
        fsync(handle)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to see what is flushed")
    monkeypatch.setattr(os, "fsync", note)
    with atomic_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
    assert {name for name, there in flushed if not there} == {".writing-a", "sub", "file"}
    assert [name for name, there in flushed if there] == [tmp_path.name]


KILLED = """
import sys, time
from pathlib import Path
from lensmith.files import atomic_folder, sync
import lensmith.files as files

at = sys.argv[2]
if at == "rename":
    files.sync = lambda folder: (print("there", flush=True), time.sleep(60))
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "manifest.json").write_text("{}")
    if at == "write":
        print("there", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("at", ["write", "rename"])
def test_a_kill_leaves_nothing_that_looks_whole(tmp_path: Path, at: str) -> None:
    target = tmp_path / "artifact"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(target), at], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not target.exists()
    assert all(name.startswith(".writing-") for name in names(tmp_path))
    # What is left is in nobody's way.
    start = time.monotonic()
    with atomic_folder(target) as folder:
        assert names(folder) == []
        (folder / "b").write_text("b")
    assert names(tmp_path) == ["artifact"]
    assert time.monotonic() - start < 5


def test_an_inventory_finds_every_change(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("same", "sub/changed", "longer", "gone"):
        (tmp_path / name).write_bytes(b"content")
    listed = inventory(tmp_path)
    assert verify(tmp_path, listed) == []
    (tmp_path / "sub" / "changed").write_bytes(b"cOntent")
    (tmp_path / "longer").write_bytes(b"content!")
    (tmp_path / "gone").unlink()
    assert sorted(verify(tmp_path, listed)) == [
        "gone is missing",
        "longer has 8 bytes, not 7",
        "sub/changed was changed (its hash differs)",
    ]
