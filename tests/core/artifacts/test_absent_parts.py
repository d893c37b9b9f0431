"""An artifact whose parts are not here says why, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lensmith import ArtifactError, loading
from lensmith.artifacts import Manifest
from lensmith_registry import Component, Kind, PartSpec, Plugin, Registry


def _part(name: str, distribution: str = "theirs") -> Component:
    return Component(Kind.CONNECTOR, name, PartSpec, "m:C", "a part", distribution, "1.2")


def _plugin(*names: str, version: str = "1.2", error: str = "", disabled: bool = False) -> Plugin:
    parts = tuple(_part(name) for name in names)
    return Plugin("their_plugin", "theirs", version, "m", error=error, components=parts, disabled=disabled)


CASES = [
    ([], "connector 'gated' is not installed; it came from theirs 1.2: pip install theirs==1.2"),
    (
        [_plugin(disabled=True)],
        "connector 'gated' of theirs 1.2 is installed, but its plugin 'their_plugin' is disabled; take it out of the"
        " environment variable LENSMITH_DISABLE_PLUGINS",
    ),
    (
        [_plugin(error="ImportError: no torchfoo")],
        "connector 'gated' of theirs 1.2 is installed, but theirs 1.2 failed: ImportError: no torchfoo",
    ),
    (
        [_plugin("other", version="2.0")],
        "connector 'gated' of theirs 1.2 is not in the installed theirs 2.0: pip install theirs==1.2",
    ),
]


def _artifact(folder: Path) -> Path:
    """The manifest of an artifact whose connector is a stranger's."""
    folder.mkdir(parents=True)
    connector = {"name": "gated", "distribution": "theirs", "version": "1.2"}
    empty: dict[str, object] = {"model": {}, "tuner": None, "weights": [], "sources": {}, "stage": {}, "data": []}
    data = {"format": 1, "plugins": {"connector": connector}, "step": 1, "files": {}, **empty}
    (folder / "manifest.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize(("plugins", "told"), CASES)
def test_N9_an_artifact_says_why_its_part_is_not_here(
    plugins: list[Plugin], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "installed", lambda: Registry(plugins))
    manifest = Manifest.read(_artifact(tmp_path / "artifact"))
    with pytest.raises(ArtifactError) as refused:
        loading._require_plugins(manifest)
    assert str(refused.value) == f"{tmp_path / 'artifact'}: {told}"


def test_N9_a_run_that_is_to_be_resumed_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _artifact(tmp_path / "checkpoints" / "align" / "step-1")
    monkeypatch.setattr(loading, "installed", Registry)
    assert loading.absent_parts(tmp_path) == [CASES[0][1]]


def test_N9_two_packages_with_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package has taken the name since the artifact was written."""
    other = Plugin("p", "other", "1", "n", components=(_part("gated", "other"),))
    monkeypatch.setattr(loading, "installed", lambda: Registry([_plugin("gated"), other]))
    with pytest.raises(ArtifactError, match="is there, but so is another connector 'gated'"):
        loading._require_plugins(Manifest.read(_artifact(tmp_path / "artifact")))
