"""docs/plugins.md shows a complete package; here it is built from the page, installed by pip and used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hatchling", reason="the page's package is built with hatchling")

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
USE = """
import json, sys, torch, lensmith
spec = json.loads(sys.argv[1])
model = lensmith.assemble(spec | {"stages": {}})
features = torch.ones(1, 4, 32)
whole = model.connector(features)
model.connector.scale = 1.0
print(json.dumps({"ratio": (whole / model.connector(features)).mean().item(), "answer": model.generate(None, "Hi")}))
"""


def files_of_the_page() -> dict[str, str]:
    """Each fenced block under the name that the line above it says."""
    found = re.findall(r"^`([\w./]+)`[^\n]*(?:\n[^\n`]+)*\n\n```\w+\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return dict(found)


def run(*command: str, target: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_of_the_page(tmp_path: Path, spec: dict[str, Any]) -> None:
    files = files_of_the_page()
    assert set(files) == {"pyproject.toml", "lensmith_scaled/__init__.py", "lensmith_scaled/connector.py"}
    package, target = tmp_path / "package", tmp_path / "installed"
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(target))
    run(*pip, str(package), target=target)

    listed = json.loads(run("-m", "lensmith.cli", "list", "--kind", "connector", "--json", target=target))
    ours = {"kind": "connector", "name": "scaled", "summary": "One linear layer, scaled"}
    assert ours | {"distribution": "lensmith-scaled", "version": "1.0"} in listed

    spec["model"]["connector"] = {"name": "scaled", "scale": 0.5}
    used = json.loads(run("-c", USE, json.dumps(spec), target=target).splitlines()[-1])
    assert used["ratio"] == pytest.approx(0.5)
    assert isinstance(used["answer"], str)
