"""Output that cannot be written: two writers of one folder, odd paths, full disks. One line, nothing half left."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from lensmith.errors import ArtifactError, OutputError
from lensmith.files import atomic_folder, temporary_name, write_bytes, write_text


def _write(target: Path, barrier: Barrier, results: multiprocessing.SimpleQueue[str]) -> None:
    """Write a folder at the same time as others do; report what became of it."""
    barrier.wait(60)
    try:
        with atomic_folder(target) as folder:
            for number in range(50):
                (folder / str(number)).write_text(str(os.getpid()))
        results.put(str(os.getpid()))
    except ArtifactError as error:
        results.put(f"told: {error}")
    except BaseException as error:
        results.put(f"broke: {error!r}")


@pytest.mark.parametrize("attempt", range(5))
def test_A8_of_several_writers_of_one_folder_one_wins_and_the_others_are_told(tmp_path: Path, attempt: int) -> None:
    context = multiprocessing.get_context("fork")
    results, barrier = context.SimpleQueue(), context.Barrier(6)
    writers = [context.Process(target=_write, args=(tmp_path / "a", barrier, results)) for _ in range(6)]
    for writer in writers:
        writer.start()
    told = [results.get() for _ in writers]
    for writer in writers:
        writer.join(60)
    winners = [result for result in told if result.isdigit()]
    assert len(winners) == 1, told
    assert all("another process" in t or "exists already" in t for t in told if not t.isdigit()), told
    assert {path.read_text() for path in (tmp_path / "a").iterdir()} == set(winners)
    assert len(list((tmp_path / "a").iterdir())) == 50
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_A8_a_folder_that_is_being_written_is_told(tmp_path: Path) -> None:
    with (
        atomic_folder(tmp_path / "a"),
        pytest.raises(ArtifactError, match="being written by another process"),
        atomic_folder(tmp_path / "a"),
    ):
        raise AssertionError("two writers")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_A8_what_a_kill_left_stops_nobody(tmp_path: Path) -> None:
    left = temporary_name(tmp_path / "a")
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "file").write_text("half")
    (left / "link").symlink_to(tmp_path / "nowhere")
    with atomic_folder(tmp_path / "a") as folder:
        assert list(folder.iterdir()) == []
        (folder / "new").write_text("whole")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["new"]


def _odd(kind: str, folder: Path) -> Path:
    if kind == "long":
        return folder / ("x" * 300)
    if kind == "nearly too long":
        return folder / ("x" * 250)
    if kind == "file as parent":
        (folder / "file").write_text("x")
        return folder / "file" / "below"
    if kind == "file":
        (folder / "file").write_text("x")
        return folder / "file"
    if kind == "dangling link":
        (folder / "link").symlink_to(folder / "nowhere")
        return folder / "link"
    if kind == "loop of links":
        (folder / "loop").symlink_to(folder / "loop")
        return folder / "loop" / "below"
    if kind == "no such device":
        return Path("/dev/null/below")
    return Path("/proc/lensmith-test/below")


KINDS = [
    "long",
    "nearly too long",
    "file as parent",
    "file",
    "dangling link",
    "loop of links",
    "no such device",
    "proc",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replace", [False, True])
def test_A17_a_folder_that_cannot_be_made_is_one_line(kind: str, replace: bool, tmp_path: Path) -> None:
    target = _odd(kind, tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ArtifactError) as refused, atomic_folder(target, replace=replace) as folder:
        (folder / "x").write_text("x")
    assert str(target.absolute())[:200] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["long", "file as parent", "loop of links", "no such device", "proc"])
def test_A17_a_file_that_cannot_be_written_is_one_line(kind: str, tmp_path: Path) -> None:
    target = _odd(kind, tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(target, "text")


@pytest.mark.parametrize("kind", ["long", "file as parent", "dangling link", "proc"])
def test_A17_commands_tell_it_in_one_line(kind: str, tmp_path: Path) -> None:
    words = ["plugin", "new", "my-part", "--kind", "connector", "--output", str(_odd(kind, tmp_path))]
    done = subprocess.run([sys.executable, "-m", "lensmith.cli", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_A9_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    link = tmp_path / "results.json"
    link.symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"results\.json cannot be written: No space left on device; make room"):
        write_bytes(link, b"x" * 100)
