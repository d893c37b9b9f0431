"""Plugins of strangers: modules with the metadata that an installer would write beside them."""

from __future__ import annotations

import importlib.metadata
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from lensmith_registry import Registry, discover

GOOD = """
    from lensmith import Component, ConnectorShape, ConnectorSpec, Kind, hookimpl

    api_version = 1

    class Spec(ConnectorSpec):
        '''A connector of a stranger.'''
        width: int = 8
        '''Any width.'''

    @hookimpl
    def lensmith_components():
        return [Component(Kind.CONNECTOR, "{name}", Spec, "{module}_impl:Connector", "of a stranger")]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write one distribution with one plugin module: `install("module", code, version="1.0", entry="…")`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(module: str, code: str, *, version: str = "1.0", entry: str = "", distribution: str = "") -> Path:
        distribution = distribution or module.replace("_", "-")
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[lensmith]\n{entry or f'{module} = {module}'}\n")
        return tmp_path

    return write


@pytest.fixture
def discovered(tmp_path: Path) -> Callable[[], Registry]:
    """Discover what `install` wrote, through real entry points, without what else this machine has."""

    def find() -> Registry:
        entry_points = [
            entry_point
            for distribution in importlib.metadata.distributions(path=[str(tmp_path)])
            for entry_point in distribution.entry_points
        ]
        return discover(entry_points)

    return find


@pytest.fixture
def good() -> Callable[[str, str], str]:
    """Code of a plugin that works: `good(module, name of its connector)`."""
    return lambda module, name: GOOD.format(module=module, name=name)
