"""The package `wrong-parts`, installed beside Lensmith, and the kit's findings on it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensmith.spec.build import installed

PARTS = Path(__file__).parent / "parts"
METADATA = "Metadata-Version: 2.1\nName: wrong-parts\nVersion: 1.0\n"
ENTRY_POINTS = "[lensmith]\nwrong_parts = wrong_parts\nheavy_plugin = heavy_plugin\n"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it: modules and metadata."""
    folder = tmp_path_factory.mktemp("site")
    for module in PARTS.glob("*.py"):
        shutil.copy(module, folder)
    info = folder / "wrong_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture(scope="module")
def wrong_parts(site: Path) -> Iterator[None]:
    """This process has the package, as long as a module of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        installed.cache_clear()
        yield
    installed.cache_clear()
    for module in PARTS.glob("*.py"):
        sys.modules.pop(module.stem, None)


@pytest.fixture(scope="session")
def environment(site: Path) -> dict[str, str]:
    """Of a process that has the package."""
    return os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
