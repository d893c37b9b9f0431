"""The constraints of `make`, the ranges of pyproject.toml and the table of tested versions agree."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lensmith import tested
from lensmith.tested import LibraryError, described

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "constraints").glob("py*.txt"))


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "constraints" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.stem)
def test_a_lock_is_exact_and_of_no_machine(file: Path) -> None:
    head, *lines = file.read_text().splitlines()
    assert head.startswith("# ")
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9A-Za-z.]*", line)] == []


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.stem)
def test_a_lock_lies_in_the_ranges_of_the_project(lock: ModuleType, file: Path) -> None:
    locked = lock.read(file)
    for match in lock.direct():
        requirement = Requirement(match[0])
        number = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(number), f"{requirement}: {number} is locked"
    assert {"hatchling", "setuptools", "wheel"} <= set(locked)  # what builds


def test_every_requirement_has_a_lower_bound(lock: ModuleType) -> None:
    oldest = lock.requirements("oldest")
    assert all("==" in line for line in oldest)
    assert not any("<" in line for line in lock.requirements("newest"))


@pytest.fixture
def copied_table(lock: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the table of tested versions, which `lock` writes to instead."""
    file = tmp_path / "tested.json"
    file.write_text(lock.TESTED.read_text())
    monkeypatch.setattr(lock, "TESTED", file)
    return file


def test_the_table_that_ships_is_what_was_tested(lock: ModuleType, copied_table: Path) -> None:
    lock.write_newest()
    shipped = json.loads((ROOT / "core" / "lensmith" / "tested.json").read_text())
    assert json.loads(copied_table.read_text()) == shipped
    bounds = {lock.normal(match["name"]): lock.lower(match["bounds"]) for match in lock.direct()}
    for name, entry in shipped["libraries"].items():
        lowest = bounds[lock.normal(name)]
        assert entry["oldest"] == lowest, (
            f"{name} is allowed from {lowest}, tested from {entry['oldest']}: make test-oldest"
        )


def test_a_run_of_the_oldest_versions_is_written_down(
    lock: ModuleType, copied_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "version", lambda name: "0.1+cpu")
    lock.passed()
    before, after = (
        json.loads(path.read_text())["libraries"] for path in (lock.ROOT / "core/lensmith/tested.json", copied_table)
    )
    assert after == {name: {"oldest": "0.1", "newest": entry["newest"]} for name, entry in before.items()}


def test_what_make_installs_is_what_moves_are_told_of(lock: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    here = lock.read(LOCKS[0])
    monkeypatch.setattr(lock, "lock_file", lambda: LOCKS[0])
    monkeypatch.setattr(lock, "version", lambda name: {"torch": "99.0+cpu"}.get(name, here[name]))
    assert lock.moved() == {"torch": (here["torch"], "99.0")}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ("5.31.0", "transformers 5.31.0 (tested up to 5.24.0)"),
        ("5.2", "transformers 5.2 (tested from 5.17.0)"),
        ("5.24.0+local", "transformers 5.24.0+local (a tested version)"),
        ("5.25.0.dev0", "transformers 5.25.0.dev0 (tested up to 5.24.0)"),
        (None, "transformers (not installed) (tested up to 5.24.0)"),
        ("unknown", "transformers unknown (tested up to 5.24.0)"),
    ],
)
def test_V1_a_library_is_named_with_what_was_tested(
    found: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tested, "installed", lambda name: found)
    monkeypatch.setattr(tested, "libraries", lambda: {"transformers": tested.Tested("5.17.0", "5.24.0")})
    assert described("transformers") == told
    message = str(LibraryError("transformers", "the prefix does not reach the keys"))
    assert (
        message
        == f'{told}: the prefix does not reach the keys; install a tested version (pip install "transformers==5.24.0")'
    )


def test_a_library_that_is_not_in_the_table_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "installed", lambda name: "1.0")
    assert str(LibraryError("strange", "it fails")).startswith("strange 1.0: it fails; install ")
    assert Version(tested.python().oldest) >= Version("3.11")
