"""`lensmith lock` records what a spec stands on; `--locked` refuses whatever differs, by name, and says what to do."""

from __future__ import annotations

import base64
import compileall
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import lensmith
import lensmith_plugins
import lensmith_registry
from lensmith import LensmithError, SpecError
from lensmith.locking import lock, read_lock

PLUGIN = """
from lensmith import Component, ConnectorShape, ConnectorSpec, Kind, hookimpl, linear

api_version = 1


class TheirsSpec(ConnectorSpec):
    depth: int = 2
    '''Layers. Default 2.'''

    def shape(self, encoder, width):
        return ConnectorShape(encoder.tokens, width, encoder.grid, linear("project", encoder.width, width))


@hookimpl
def lensmith_components():
    return [Component(Kind.CONNECTOR, "theirs", TheirsSpec, "theirs_parts.layers:Connector", "a part of a stranger")]
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def install(folder: Path, *, version: str = "1.0", editable: bool = False) -> Path:
    """A plugin as pip installs it, with the list of its files, or as pip leaves it when it is editable."""
    sources = folder / "sources" if editable else folder
    package = sources / "theirs_parts"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PLUGIN)
    (package / "layers.py").write_text("class Connector: ...\n")
    info = folder / f"theirs_parts-{version}.dist-info"
    info.mkdir()
    needs = "Requires-Dist: einops\nRequires-Dist: nowhere-to-be-found; extra == 'other'\n"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: theirs-parts\nVersion: {version}\n{needs}")
    (info / "entry_points.txt").write_text("[lensmith]\ntheirs = theirs_parts\n")
    if editable:
        (folder / "_editable_theirs.pth").write_text(f"{sources}\n")
        origin = {"url": sources.as_uri(), "dir_info": {"editable": True}}
        (info / "direct_url.json").write_text(json.dumps(origin))
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not (editable and sources in p.parents)]
    (info / "RECORD").write_text("".join(f"{p.relative_to(folder).as_posix()},{recorded(p)},\n" for p in files))
    return package


def recorded(path: Path) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest())
    return f"sha256={digest.decode().rstrip('=')}"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


@pytest.fixture
def project(tmp_path: Path, light_spec: dict[str, Any]) -> Path:
    """A folder with all that a spec names, by relative paths."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("encoder", "language", "rows.jsonl"):
        (tmp_path / name).rename(folder / name)
    light_spec["model"]["vision_encoder"]["checkpoint"] = "encoder"
    light_spec["model"]["language_model"]["checkpoint"] = "language"
    light_spec["model"]["connector"] = "theirs"
    light_spec["stages"]["align"]["data"]["sources"] = "rows.jsonl"
    (folder / "run.yaml").write_text(yaml.safe_dump(light_spec))
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of Lensmith, whose files nobody changes while these tests hash them."""
    folder = tmp_path_factory.mktemp("ours")
    for package in (lensmith, lensmith_plugins, lensmith_registry):
        source = Path(str(package.__path__[0]))
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(folder, quiet=2)
    return folder


@pytest.fixture
def cli(project: Path, site: Path, ours: Path) -> Run:
    """The command in a process of its own, in the project's folder; it fails where torch gets imported."""
    code = (
        "import sys; from lensmith.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'transformers'} & set(sys.modules), 'heavy'"
    )

    def run(*arguments: str, folder: Path = project) -> subprocess.CompletedProcess[str]:
        # A .pth file counts in folders of packages alone, so what it says is said here as well.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ours, site, site / "sources")))}
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
        assert "heavy" not in done.stderr
        return done

    return run


def test_what_is_recorded(cli: Run, site: Path, project: Path) -> None:
    install(site)
    done = cli("lock", "run.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run.yaml.lock: ")
    text = (project / "run.yaml.lock").read_text()
    data = yaml.safe_load(text)
    here = data["distributions"]
    assert list(here) == sorted(here)
    for name in ("lensmith", "torch", "transformers", "tokenizers", "peft", "deepspeed", "timm", "numpy"):
        assert here[name]["version"] == importlib.metadata.version(name)
        assert len(here[name]["sha256"]) == 64
    assert here["theirs-parts"]["version"] == "1.0"
    assert data["parts"]["model.connector"] == "theirs of theirs-parts 1.0"
    assert data["spec"]["resolved"]["model"]["language_model"]["checkpoint"] == "language"
    assert not {"pytest", "ruff", "mypy", "bitsandbytes"} & here.keys()
    assert cli("check", "run.yaml", "--locked").stdout == "run.yaml is valid\n"
    cli("lock", "run.yaml")
    assert (project / "run.yaml.lock").read_text() == text
    moved = project.with_name("elsewhere")
    shutil.copytree(project, moved)
    assert cli("check", "run.yaml", "--locked", folder=moved).returncode == 0
    adapted = cli("lock", "run.yaml", "stages.align.tuner=qlora")
    assert adapted.returncode == 0
    assert "bitsandbytes" in yaml.safe_load((project / "run.yaml.lock").read_text())["distributions"]


@pytest.mark.parametrize("editable", [False, True], ids=["installed", "editable"])
def test_changed_files_of_a_provider(cli: Run, site: Path, editable: bool) -> None:
    package = install(site, editable=editable)
    assert cli("lock", "run.yaml").returncode == 0
    (package / "__pycache__").mkdir(exist_ok=True)
    (package / "__pycache__" / "layers.cpython-399.pyc").write_bytes(b"other bytecode")
    assert cli("check", "run.yaml", "--locked").returncode == 0
    (package / "layers.py").write_text("class Connector: answer = 42\n")
    done = cli("check", "run.yaml", "--locked")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "run.yaml.lock: distributions.theirs-parts: is 1.0 as locked, but its files are not those that were locked",
        "  To go on, go back to what is locked, or accept what is here with `lensmith lock run.yaml`",
        "1 problem in run.yaml",
    ]


def test_every_difference_is_named(cli: Run, site: Path, project: Path) -> None:
    install(site)
    assert cli("lock", "run.yaml").returncode == 0
    shutil.rmtree(site)
    site.mkdir()
    install(site, version="1.1")
    file = project / "run.yaml.lock"
    data = yaml.safe_load(file.read_text())
    data["distributions"]["torch"]["version"] = "2.1.0"
    data["distributions"]["gone-away"] = {"version": "3.0"}
    data["distributions"]["numpy"]["sha256"] = "0" * 64
    del data["distributions"]["einops"]
    data["python"] = "2.7"
    file.write_text(yaml.safe_dump(data))
    done = cli("check", "run.yaml", "model.connector.depth=3", "stages.align.tuner=full", "--locked", "--json")
    assert done.returncode == 2
    told = {p["path"]: p["message"] for p in json.loads(done.stdout)["problems"]}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "einops")}
    last = list(told)[-1]
    message, _, cure = told[last].partition("\n  To go on, ")
    told[last] = message
    assert told == {
        "python": f"is {sys.version_info.major}.{sys.version_info.minor}, locked is 2.7",
        "distributions.einops": f"{versions['einops']} is needed now and not in the lock",
        "distributions.gone-away": "3.0 is locked and not installed",
        "distributions.numpy": f"is {versions['numpy']} as locked, but its files are not those that were locked",
        "distributions.theirs-parts": "is 1.1, locked is 1.0",
        "distributions.torch": f"is {versions['torch']}, locked is 2.1.0",
        "spec.model.connector.depth": "is 3, locked is 2",
        "spec.stages.align.tuner": "is 'full', locked is 'frozen'",
    }
    assert cure == (
        "go back to what is locked (pip install 'gone-away==3.0' 'theirs-parts==1.0' 'torch==2.1.0'), or accept what is"
        " here with `lensmith lock run.yaml`"
    )
    refused = cli("train", "run.yaml", "--locked")
    assert refused.returncode == 2
    assert "distributions.torch: is" in refused.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "run.yaml.lock does not exist; write it with `lensmith lock run.yaml`"),
        ("distributions: [", "run.yaml.lock cannot be read (ParserError)"),
        ("lock: 9\n", "run.yaml.lock has format 9, this Lensmith reads 1"),
        ("lock: 1\ndistributions: 3\n", "run.yaml.lock is damaged"),
        ("[]", "run.yaml.lock has format None"),
    ],
)
def test_a_lock_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("run.yaml.lock").write_text(text)
    with pytest.raises(SpecError) as refused:
        read_lock(Path("run.yaml"))
    assert words in str(refused.value)


def test_a_lock_belongs_to_a_file() -> None:
    with pytest.raises(LensmithError, match=r"llava-1\.5-7b does not exist; a lock belongs to a spec file"):
        lock(Path("llava-1.5-7b"))
