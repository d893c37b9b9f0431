"""What looks at parts and specs without computing imports nothing that computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

HEAVY = {
    "PIL",
    "accelerate",
    "deepspeed",
    "huggingface_hub",
    "numpy",
    "peft",
    "safetensors",
    "scipy",
    "tokenizers",
    "timm",
    "torch",
    "transformers",
}


def imported(code: str, *arguments: str) -> set[str]:
    """Top-level packages that a fresh process has imported after running `code`."""
    listing = "import atexit, sys; atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr))\n"
    command = [sys.executable, "-c", listing + textwrap.dedent(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    modules = done.stderr.splitlines()[-1].split()
    assert modules[0] == "MODULES"
    return {module.partition(".")[0] for module in modules[1:]}


def test_discovery_is_light() -> None:
    modules = imported("from lensmith_registry import discover; assert not discover().failures")
    assert "lensmith_plugins" in modules
    assert modules.isdisjoint(HEAVY)


def test_the_registry_does_not_look_upward() -> None:
    modules = imported("import lensmith_registry")
    assert "lensmith_registry" in modules
    assert modules.isdisjoint({"lensmith", "lensmith_plugins", *HEAVY})


def test_the_authors_import_is_light() -> None:
    modules = imported("import lensmith; lensmith.Component, lensmith.ConnectorSpec, lensmith.load_spec")
    assert modules.isdisjoint({"lensmith_plugins", *HEAVY})


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        ["list", "--json"],
        ["plugins"],
        ["show", "connector", "mlp"],
        ["show", "language_model", "llama", "--json"],
        ["schema"],
        ["check", "{spec}"],
        ["check", "{spec}", "stages.align.tuner=lora"],
    ],
    ids=" ".join,
)
def test_a_command_is_light(arguments: list[str], light_spec: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(light_spec))
    modules = imported("from lensmith.cli import main; main()", *(a.format(spec=file) for a in arguments))
    assert "lensmith" in modules
    assert modules.isdisjoint(HEAVY)
