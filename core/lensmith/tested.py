"""Which versions of other libraries the tests were run with: the oldest and the newest of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from lensmith.errors import LensmithError


@dataclass(frozen=True)
class Tested:
    """What was tested of one library.

    Args:
        oldest, newest: versions; everything between them is taken to work.
    """

    oldest: str
    newest: str

    def holds(self, found: str) -> bool:
        """Whether a version lies between them, local labels (`+cpu`) left aside."""
        try:
            release = Version(Version(found).public)
        except InvalidVersion:
            return False
        return Version(self.oldest) <= release <= Version(self.newest)

    def __str__(self) -> str:
        return self.oldest if self.oldest == self.newest else f"{self.oldest} to {self.newest}"


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    # Written by `make lock`, beside this file so that it is in the wheel.
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name("tested.json").read_text(encoding="utf-8"))
    return loaded


def libraries() -> dict[str, Tested]:
    """The libraries whose interfaces Lensmith depends on, by distribution."""
    return {name: Tested(**entry) for name, entry in _table()["libraries"].items()}


def python() -> Tested:
    """The same for Python itself, as `major.minor`."""
    return Tested(**_table()["python"])


def installed(distribution: str) -> str | None:
    """The version that is installed; None where there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def described(distribution: str) -> str:
    """The library as a message names it: `transformers 5.31.0 (tested up to 5.24.0)`."""
    found, tested = installed(distribution) or "(not installed)", libraries().get(distribution)
    if tested is None:
        return f"{distribution} {found}"
    if tested.holds(found):
        return f"{distribution} {found} (a tested version)"
    older = found[:1].isdigit() and not tested.holds(found) and Version(found) < Version(tested.oldest)
    return f"{distribution} {found} (tested {f'from {tested.oldest}' if older else f'up to {tested.newest}'})"


class LibraryError(LensmithError):
    """Another library does not do what Lensmith builds on; raised rather than giving another answer.

    Args:
        distribution: whose version is named.
        message: what it does not do.
        cure: what to do besides installing a tested version.
    """

    def __init__(self, distribution: str, message: str, cure: str = "") -> None:
        tested = libraries().get(distribution)
        install = f'pip install "{distribution}=={tested.newest}"' if tested else f"another version of {distribution}"
        super().__init__(f"{described(distribution)}: {message}; install a tested version ({install}){cure}")
