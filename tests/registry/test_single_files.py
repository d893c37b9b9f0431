"""Plugins of one file: a part that is tried before it is a package (N20)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILE = '''
import lensmith
from lensmith import Component, ConnectorShape, ConnectorSpec, Kind, linear

api_version = 1


class DoubledSpec(ConnectorSpec):
    """A linear layer whose output is doubled."""

    def shape(self, encoder, width):
        return ConnectorShape(encoder.tokens, width, encoder.grid, linear("project", encoder.width, width))


@lensmith.hookimpl
def lensmith_components():
    return [
        Component(
            kind=Kind.CONNECTOR,
            name="doubled",
            spec=DoubledSpec,
            implementation="mine_for_a_try:Doubled",
            summary="One linear layer, doubled",
        )
    ]


def __getattr__(name):
    """The class, made when the part is built: commands that only list parts need no torch."""
    if name != "Doubled":
        raise AttributeError(name)
    from torch import nn

    class Doubled(lensmith.Connector):
        """features (V, N, W) to (V, N, D)."""

        def __init__(self, spec, encoder, width):
            super().__init__()
            self.shape = spec.shape(encoder, width)
            self.project = nn.Linear(encoder.width, width)

        @classmethod
        def build(cls, spec, encoder, width):
            return cls(spec, encoder, width)

        def forward(self, features, instruction=None):
            return 2 * self.project(features)

    return Doubled
'''


def run(*arguments: str, files: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lensmith", *arguments]
    environment = os.environ | {"LENSMITH_PLUGIN_FILES": files}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine_for_a_try.py").write_text(FILE)
    return tmp_path


def test_N20_a_part_of_a_single_file_is_listed_and_built(folder: Path) -> None:
    listed = run("list", "connector", files="mine_for_a_try.py", cwd=folder)
    assert listed.returncode == 0, listed.stderr
    assert "doubled" in listed.stdout
    assert "mine_for_a_try.py" in listed.stdout
    script = (
        "import os, lensmith; part = lensmith.discover().get('connector', 'doubled'); print(part.load().__name__);"
        " print(part.version, os.environ['LENSMITH_PLUGIN_FILES'])"
    )
    built = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=os.environ | {"LENSMITH_PLUGIN_FILES": "mine_for_a_try.py"},
        capture_output=True,
        text=True,
        check=True,
    )
    name, told = built.stdout.split("\n", 1)
    assert name == "Doubled"
    version, path = told.split()
    assert version.startswith("0+")
    assert path == str(folder / "mine_for_a_try.py")  # what this process starts finds it from any folder


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ("nowhere.py", "nowhere.py does not exist"),
        ("notes.txt", "notes.txt is not a Python module (NAME.py)"),
        ("mine_for_a_try.py:other/mine_for_a_try.py", "two files called mine_for_a_try.py"),
    ],
)
def test_N20_a_file_that_cannot_be_a_plugin_is_refused(folder: Path, files: str, told: str) -> None:
    (folder / "notes.txt").touch()
    (folder / "other").mkdir()
    (folder / "other" / "mine_for_a_try.py").write_text(FILE)
    refused = run("list", files=files, cwd=folder)
    assert refused.returncode == 2
    assert "LENSMITH_PLUGIN_FILES" in refused.stderr
    assert told in refused.stderr


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("json.py", FILE, "'json' is the name of another module"),
        ("broken_try.py", "raise RuntimeError('half written')", "RuntimeError: half written"),
        ("bare_try.py", "", "does not say which interface it was written for"),
    ],
)
def test_N20_what_a_file_raises_breaks_nothing_else(folder: Path, name: str, text: str, told: str) -> None:
    (folder / name).write_text(text)
    listed = run("plugins", files=str(folder / name), cwd=folder.parent)
    said = " ".join((listed.stdout + listed.stderr).split())
    assert told in said
    assert "Mend the file, or take it out of LENSMITH_PLUGIN_FILES" in said
    assert run("list", files=str(folder / name), cwd=folder.parent).returncode == 0
