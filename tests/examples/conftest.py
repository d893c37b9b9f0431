"""A virtual environment of its own with the example packages, and one new package of each kind, installed by pip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lensmith.scaffold import kinds, new_package, package_names
from lensmith_registry import Registry

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"


@dataclass(frozen=True)
class Environment:
    """A Python with packages of strangers.

    Args:
        python: its executable.
        sources: folders of the packages that work.
    """

    python: Path
    sources: tuple[Path, ...]

    def run(
        self, *arguments: str | Path, cwd: Path | None = None, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python: `run("-c", code)`."""
        command = [str(self.python), *map(str, arguments)]
        # Not the path of this process, which would come before the packages installed here.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        inherited |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=inherited, check=False)
        assert done.returncode == 0 or not check, done.stdout[-8000:] + done.stderr[-8000:]
        return done

    def lensmith(self, *arguments: str | Path, check: bool = True, **environment: str) -> Any:
        """Run the command: `lensmith("list")`."""
        return self.run("-m", "lensmith.cli", *arguments, check=check, **environment)

    def told(self, *arguments: str | Path, **environment: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.lensmith(*arguments, **environment).stdout)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """All of `examples/plugins` and one new package a kind."""
    pytest.importorskip("hatchling", reason="the packages are built with hatchling")
    new = tmp_path_factory.mktemp("new")
    made = [new_package(package_names(f"new-{kind.value}", kind, Registry([])), new / kind.value) for kind in kinds()]
    examples = sorted(folder for folder in EXAMPLES.iterdir() if (folder / "pyproject.toml").is_file())
    python = _virtual_environment(tmp_path_factory.mktemp("venv"))
    _install(python, [*made, *examples])
    return Environment(python, tuple(folder for folder in [*made, *examples] if folder.name != "broken"))


def _virtual_environment(folder: Path) -> Path:
    """An environment that finds what this one has, so that torch is not downloaded again."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    own = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    # Not a plain path: the .pth files of this environment's editable installs count too.
    line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (Path(own.stdout.strip()) / "parent.pth").write_text(line)
    return python


def _install(python: Path, folders: Sequence[Path]) -> None:
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
