"""Real packages of strangers, built and installed by pip: four of five are broken, and nobody else notices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hatchling", reason="the packages of these tests are built with hatchling")

PYPROJECT = """
    [build-system]
    requires = ["hatchling"]
    build-backend = "hatchling.build"

    [project]
    name = "{name}"
    version = "{version}"

    [project.entry-points.lensmith]
    {module} = "{module}"

    [tool.hatch.build.targets.wheel]
    packages = ["{module}"]
"""
GOOD = """
    from typing import Annotated, Literal

    from pydantic import Field

    import lensmith
    from lensmith import ConnectorShape, ParameterShape

    api_version = 1


    class GatedSpec(lensmith.ConnectorSpec):
        '''One linear layer and a gate.'''

        gate: Annotated[float, Field(gt=0, le=1)] = 0.5
        '''How far the gate is open at first.'''

        shapes: Literal["plain", "strange"] = "plain"
        '''A choice.'''

        def shape(self, encoder, width):
            weight = ParameterShape("weight", (width, encoder.width))
            return ConnectorShape(tokens=encoder.tokens, width=width, grid=encoder.grid, parameters=(weight,))


    @lensmith.hookimpl
    def lensmith_components():
        return [
            lensmith.Component(
                kind=lensmith.Kind.CONNECTOR,
                name="gated",
                spec=GatedSpec,
                implementation="gated_connector.layers:GatedConnector",
                summary="a linear layer with a gate",
            )
        ]
"""
LAYERS = """
    import lensmith
    from torch import nn


    class GatedConnector(lensmith.Connector):
        def __init__(self, inputs, shape, gate):
            super().__init__()
            self.shape, self.gate = shape, gate
            self.weight = nn.Linear(inputs, shape.width, bias=False).weight

        @classmethod
        def build(cls, spec, encoder, width):
            return cls(encoder.width, spec.shape(encoder, width), spec.gate)

        def forward(self, features, instruction=None):
            return self.gate * nn.functional.linear(features, self.weight)
"""
ANOTHER = """
    import lensmith

    api_version = {api_version}


    @lensmith.hookimpl
    def {hook}():
        spec = lensmith.ConnectorSpec
        return [lensmith.Component(lensmith.Kind.CONNECTOR, "{part}", spec, "nowhere:Part", "a part")]
"""
PACKAGES: dict[str, tuple[str, str]] = {
    "gated-connector": ("1.2", GOOD),
    "needs-much": ("0.1", "import a_library_that_nobody_installed\n"),
    "linear-again": ("3.0", ANOTHER.format(api_version=1, hook="lensmith_components", part="linear")),
    "misspelt-hook": ("0.4", ANOTHER.format(api_version=1, hook="lensmith_component", part="misspelt")),
    "from-the-future": ("9.0", ANOTHER.format(api_version=7, hook="lensmith_components", part="future")),
}

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed all five."""
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("target")
    for name, (version, code) in PACKAGES.items():
        module = name.replace("-", "_")
        package = sources / name / module
        package.mkdir(parents=True)
        pyproject = PYPROJECT.format(name=name, version=version, module=module)
        (sources / name / "pyproject.toml").write_text(textwrap.dedent(pyproject))
        (package / "__init__.py").write_text(textwrap.dedent(code))
        if code is GOOD:
            (package / "layers.py").write_text(textwrap.dedent(LAYERS))
    options = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--no-compile",
        "--disable-pip-version-check",
        "--quiet",
    ]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
    done = subprocess.run([*command, *(str(sources / name) for name in PACKAGES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def lensmith(packages: Path, tmp_path: Path) -> Cli:
    """The command in a process that has the five packages: `lensmith("list", "--json")`."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lensmith.cli", *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(packages)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    return run


@pytest.fixture
def gated_file(light_spec: dict[str, Any], tmp_path: Path) -> Path:
    """A spec of tiny parts that names the stranger's connector."""
    light_spec["model"]["connector"] = {"name": "gated", "gate": 0.25}
    file = tmp_path / "gated.json"
    file.write_text(json.dumps(light_spec))
    return file


def test_list_shows_the_good_one_with_its_provenance_and_warns_of_the_rest(lensmith: Cli) -> None:
    done = lensmith("list", "--json")
    assert done.returncode == 0
    parts = {(part["kind"], part["name"]): part for part in json.loads(done.stdout)}
    gated = parts["connector", "gated"]
    assert (gated["distribution"], gated["version"]) == ("gated-connector", "1.2")
    assert gated["summary"] == "a linear layer with a gate"
    assert ("connector", "mlp") in parts
    assert parts["connector", "linear"]["distribution"] == "lensmith"
    assert parts["connector", "linear-again:linear"]["distribution"] == "linear-again"
    for lost in ("misspelt", "future"):
        assert ("connector", lost) not in parts
    warnings = done.stderr.splitlines()
    assert len(warnings) == 4
    for words in ("needs-much 0.1 failed", "misspelt-hook 0.4 failed", "from-the-future 9.0 failed", "'linear'"):
        assert sum(words in line for line in warnings) == 1
    assert "Traceback" not in done.stderr


def test_plugins_tells_what_failed_and_why(lensmith: Cli) -> None:
    done = lensmith("plugins", "--json")
    assert done.returncode == 0
    plugins = {
        plugin["distribution"]: plugin for plugin in json.loads(done.stdout) if plugin["distribution"] in PACKAGES
    }
    assert set(plugins) == set(PACKAGES)
    for name, (version, _) in PACKAGES.items():
        assert (plugins[name]["version"], plugins[name]["module"]) == (version, name.replace("-", "_"))
    assert plugins["gated-connector"]["error"] is None
    assert plugins["gated-connector"]["components"] == ["connector 'gated'"]
    assert plugins["linear-again"]["error"] is None
    assert "a_library_that_nobody_installed" in plugins["needs-much"]["error"]
    assert "a_library_that_nobody_installed" in plugins["needs-much"]["details"].splitlines()[-1]
    assert "Traceback" in plugins["needs-much"]["details"]
    assert "lensmith_component'" in plugins["misspelt-hook"]["error"]
    assert "lensmith_components" in plugins["misspelt-hook"]["error"]
    assert "api_version 7" in plugins["from-the-future"]["error"]
    assert "api_version 1" in plugins["from-the-future"]["error"]


def test_plugins_for_people_names_the_conflict(lensmith: Cli) -> None:
    done = lensmith("plugins")
    assert done.returncode == 0
    assert "conflict: connector 'linear' is the built-in part; the one of linear-again 3.0 is named" in done.stdout
    assert "'linear-again:linear'" in done.stdout
    failed = [line.split()[0] for line in done.stdout.splitlines() if "FAILED" in line]
    assert sorted(failed) == ["from_the_future", "misspelt_hook", "needs_much"]


def test_show_and_schema_know_the_strangers_fields(lensmith: Cli) -> None:
    shown = lensmith("show", "connector", "gated")
    assert shown.returncode == 0
    for words in ("gated-connector 1.2", "One linear layer and a gate.", "How far the gate is open at first.", "0.5"):
        assert words in shown.stdout
    schema = json.loads(lensmith("schema").stdout)
    gated = schema["$defs"]["GatedSpec"]
    assert gated["properties"]["gate"]["exclusiveMinimum"] == 0
    assert gated["properties"]["name"]["const"] == "gated"
    assert gated["additionalProperties"] is False


def test_a_spec_may_name_the_stranger(lensmith: Cli, gated_file: Path) -> None:
    done = lensmith("check", gated_file)
    assert (done.returncode, done.stderr) == (0, "")
    wrong = lensmith("check", gated_file, "model.connector.gate=2", "model.connector.shapes=odd")
    assert wrong.returncode == 2
    assert "model.connector.gate: should be less than or equal to 1; it is 2" in wrong.stderr
    assert "model.connector.shapes: should be 'plain' or 'strange'; it is 'odd'" in wrong.stderr


def test_a_spec_that_names_a_broken_one_says_which_package_failed(lensmith: Cli, gated_file: Path) -> None:
    done = lensmith("check", gated_file, "model.connector=needs_much")
    assert done.returncode == 2
    assert "no connector is called 'needs_much'" in done.stderr
    assert "Package needs-much 0.1 may provide it but failed: ModuleNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr


def test_N4_a_spec_that_names_a_built_in_part_gets_it(lensmith: Cli, gated_file: Path) -> None:
    done = lensmith("check", gated_file, "model.connector=linear")
    assert (done.returncode, done.stderr) == (0, "")
    done = lensmith("check", gated_file, "model.connector=lensmith:linear")
    assert (done.returncode, done.stderr) == (0, "")
    done = lensmith("plan", gated_file, "model.connector=linear-again:linear")  # builds it, as it says no shape
    assert done.returncode == 2
    assert "linear-again" in done.stderr
    assert "nowhere" in done.stderr
    done = lensmith("check", gated_file, "model.connector=nobody:linear")
    assert done.returncode == 2
    assert "no connector is called 'nobody:linear'" in done.stderr


def test_the_strangers_part_is_built_from_the_spec(packages: Path, gated_file: Path) -> None:
    code = """
        import sys, torch
        from lensmith import VisionShape, load_spec
        from lensmith.parts import implementation
        spec = load_spec(sys.argv[1], ["model.connector.gate=0.5"]).model.connector
        encoder = VisionShape(image_size=(28, 28), grid=(2, 2), width=3)
        connector = implementation("connector", spec).build(spec, encoder, 5)
        print(type(connector).__module__, connector.gate, *connector(torch.zeros(2, 4, 3)).shape)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(gated_file)]
    environment = os.environ | {"PYTHONPATH": str(packages)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["gated_connector.layers", "0.5", "2", "4", "5"]
