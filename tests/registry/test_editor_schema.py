"""The editor set-up of docs/specs.md: its two lines make a standard validator know the parts of other packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from lensmith.spec.yaml import read_document

ROOT = Path(__file__).parents[2]
SPECS = sorted(
    file
    for folder in ("examples", "plugins/lensmith_plugins")
    for file in (ROOT / folder).glob("*/*.yaml")
    if not re.search(r"^base:", file.read_text(encoding="utf-8"), re.M)  # studies
)
STRANGER = """
    from typing import Annotated, Literal

    from pydantic import Field

    from lensmith import Component, ConnectorShape, ConnectorSpec, Kind, hookimpl, linear

    api_version = 1

    class GatedSpec(ConnectorSpec):
        '''One linear layer and a gate.'''

        gate: Annotated[float, Field(gt=0, le=1)] = 0.5
        '''How far the gate is open at first. Default 0.5.'''
        mode: Literal["soft", "hard"] = "soft"
        '''How it closes. Default soft.'''
        opening: Annotated[float, Field(deprecated="use gate")] = 0.5
        '''The old name of `gate`.'''

        def shape(self, encoder, width):
            parameters = linear("project", encoder.width, width)
            return ConnectorShape(encoder.tokens, width, encoder.grid, parameters)

    @hookimpl
    def lensmith_components():
        def connector(name, **more):
            return Component(Kind.CONNECTOR, name, GatedSpec, "g_gated.layers:Gated", "a layer with a gate", **more)

        return [connector("gated"), connector("gate", deprecated="use gated")]
"""
SPEC = """
extends: llava-1.5-7b
model:
  connector: {name: gated, gate: 0.25, mode: hard}
stages:
  pretrain: {data: {sources: rows.json}}
  finetune: {data: {sources: rows.json}}
"""


@pytest.fixture
def project(tmp_path: Path, install: Callable[..., Path]) -> Path:
    install("g_gated", STRANGER, distribution="gated-parts", version="1.2")
    (tmp_path / "rows.json").write_text("[]")
    (tmp_path / "run.yaml").write_text(SPEC)
    return tmp_path


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A shell command in a folder whose packages are installed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(folder), "PATH": path}
    return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def errors(project: Path) -> Callable[[Any], list[str]]:
    """What an editor would underline, after the two lines of the page."""
    page = (ROOT / "docs" / "specs.md").read_text(encoding="utf-8")
    ((shell, comment),) = re.findall(r"```sh\n(.*?)```.*?```yaml\n(# yaml-language-server.*?)```", page, re.S)
    assert shell.count("\n") == comment.count("\n") == 1
    done = run(project, shell)
    assert (done.returncode, done.stderr) == (0, "")
    (project / "run.yaml").write_text(comment + SPEC)
    (named,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", (project / "run.yaml").read_text(), re.M)
    schema = json.loads((project / named).read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert isinstance(validator, jsonschema.Draft202012Validator)
    return lambda data: [error.message for error in validator.iter_errors(data)]


def descriptions(schema: Any, title: str) -> Iterator[dict[str, Any]]:
    for name, section in schema["$defs"].items():
        if name.startswith(title):
            yield section["properties"]


def test_a_strangers_fields_are_completed_and_checked(project: Path, errors: Callable[[Any], list[str]]) -> None:
    text = (project / "run.yaml").read_text()
    assert errors(yaml.safe_load(text)) == []
    for wrong in (("gate: 0.25", "gate: 2"), ("gate: 0.25", "gaet: 0.25"), ("mode: hard", "mode: hrad")):
        assert errors(yaml.safe_load(text.replace(*wrong)))
    (fields, _) = descriptions(json.loads((project / "lensmith.schema.json").read_text()), "GatedSpec")
    assert fields["gate"]["description"].startswith("How far the gate is open")
    assert fields["mode"]["enum"] == ["soft", "hard"]
    assert fields["opening"]["deprecated"] is True
    for file in SPECS:
        assert errors(read_document(file).data) == [], file  # YAML 1.2, as editors read it
    assert len(SPECS) > 5


def test_what_goes_is_told_with_what_to_use(project: Path) -> None:
    listed = run(project, "lensmith list --kind connector")
    assert re.search(r"^connector +gate +a layer with a gate \(deprecated: use gated\)", listed.stdout, re.M)
    shown = run(project, "lensmith show connector gate").stdout
    assert "Deprecated: use gated\n" in shown
    assert "Deprecated: use gate. The old name of `gate`." in shown
    done = run(project, "lensmith check run.yaml model.connector=gate model.connector.opening=0.1 --json")
    told = {entry["path"]: entry["message"] for entry in json.loads(done.stdout)["warnings"]}
    assert told == {
        "model.connector": "connector 'gate' is deprecated: use gated",
        "model.connector.opening": "is deprecated: use gate",
    }
    assert run(project, "lensmith check run.yaml").stderr.count("warning") == 0
