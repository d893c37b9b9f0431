"""`lensmith plugin new`: what it writes and what it refuses. tests/examples installs and runs what it writes."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import lensmith
from lensmith.cli.commands import build
from lensmith.scaffold import kinds, new_package, package_names, written_files
from lensmith_registry import Component, Kind, Plugin, Registry, discover


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.fixture(params=kinds(), ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.mark.parametrize(
    ("part", "distribution", "module", "stem"),
    [
        ("ldp", "lensmith-ldp", "lensmith_ldp", "Ldp"),
        ("tiny-vit.2", "lensmith-tiny-vit-2", "lensmith_tiny_vit_2", "TinyVit2"),
        ("my_connector", "lensmith-my-connector", "lensmith_my_connector", "My"),
        ("connector", "lensmith-connector", "lensmith_connector", "MyConnector"),
        # N22: the prefix once
        ("lensmith-x", "lensmith-x", "lensmith_x", "X"),
        ("lensmith_tiny_vit", "lensmith-tiny-vit", "lensmith_tiny_vit", "TinyVit"),
        ("lensmith.lensmith-x", "lensmith-x", "lensmith_x", "X"),
        ("lensmith", "lensmith-lensmith", "lensmith_lensmith", "Lensmith"),
        ("lensmithy", "lensmith-lensmithy", "lensmith_lensmithy", "Lensmithy"),
    ],
)
def test_names_follow_from_the_parts(part: str, distribution: str, module: str, stem: str, registry: Registry) -> None:
    names = package_names(part, Kind.CONNECTOR, registry)
    assert (names.distribution, names.module, names.stem) == (distribution, module, stem)


@pytest.mark.parametrize(
    ("kind", "part"), [(Kind.VISION_ENCODER, "vision"), (Kind.LANGUAGE_MODEL, "language"), (Kind.TUNER, "tuner")]
)
def test_no_class_takes_the_name_of_an_interface(kind: Kind, part: str, registry: Registry) -> None:
    files = dict(written_files(package_names(part, kind, registry)))
    classes = {node.name for text in files.values() if "class " in text for node in _nodes(text, ast.ClassDef)}  # type: ignore[attr-defined]
    assert classes
    assert not classes & set(lensmith.__all__)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("mlp", ("connector 'mlp' is already offered by lensmith ", "pixel_shuffle")),
        ("class", ("'class' is a word of the Python language", "'class_connector'")),
        ("none", ("'none' is a word of the Python language",)),
        ("MyPart", ("'MyPart' cannot be a part's name", "e.g. 'my_part'")),
        ("2d", ("begins with a letter", "e.g. 'd'")),
        ("part_", ("ends with a letter or a digit", "e.g. 'part'")),
        ("../away", ("cannot be a part's name", "e.g. 'away'")),
        ("", ("'' cannot be a part's name",)),
        ("plugins", ("a module lensmith_plugins is installed already", "than 'plugins'")),
    ],
)
def test_a_name_that_cannot_be_is_refused(part: str, words: tuple[str, ...], registry: Registry) -> None:
    with pytest.raises(lensmith.LensmithError) as caught:
        package_names(part, Kind.CONNECTOR, registry)
    for word in words:
        assert word in str(caught.value)


def test_a_name_of_a_stranger_is_refused_with_all_who_claim_it(registry: Registry) -> None:
    def plugin(distribution: str) -> Plugin:
        part = Component(Kind.CONNECTOR, "taken", lensmith.ConnectorSpec, "nowhere:Part", "a part")
        return Plugin("p", distribution, "2.1", "m", components=(part.from_distribution(distribution, "2.1"),))

    both = Registry([*registry.plugins, plugin("theirs"), plugin("others")])
    with pytest.raises(lensmith.LensmithError, match=r"offered by others 2\.1 and theirs 2\.1"):
        package_names("taken", Kind.CONNECTOR, both)
    assert package_names("taken", Kind.TUNER, both).part == "taken"


def test_a_kind_without_a_template_is_refused(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensmith.scaffold.write._TEMPLATES", tmp_path)
    with pytest.raises(lensmith.LensmithError, match="no template of a tuner yet"):
        new_package(package_names("tiny", Kind.TUNER, registry), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_package_is_whole(kind: Kind, registry: Registry, tmp_path: Path) -> None:
    names = package_names("tiny-part", kind, registry)
    folder = new_package(names, tmp_path / "new")
    files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    common = {"README.md", "pyproject.toml", ".gitignore", ".github/workflows/tests.yml", "tests/test_conformance.py"}
    code = {f"lensmith_tiny_part/{name}.py" for name in ("__init__", "spec", names.noun)}
    assert common | code <= files.keys()
    for place, text in files.items():
        assert "example" not in text.lower().replace("example=", "").replace("for example", ""), place
        if place.endswith(".py"):
            ast.parse(text)
    project = tomllib.loads(files["pyproject.toml"])
    assert project["project"]["entry-points"] == {"lensmith": {"lensmith_tiny_part": "lensmith_tiny_part"}}
    assert project["project"]["dependencies"][0].startswith("lensmith>=")


def test_spec_and_record_import_nothing_heavy(kind: Kind, registry: Registry) -> None:
    files = dict(written_files(package_names("tiny", kind, registry)))
    for module in ("__init__", "spec"):
        imported = set(_imports(files[f"lensmith_tiny/{module}.py"]))
        assert imported <= {"__future__", "collections", "json", "lensmith", "pathlib", "pydantic", "typing"}
    everything = {name for place, text in files.items() if place.endswith(".py") for name in _imports(text)}
    assert not everything & {"lensmith_plugins", "lensmith_registry"}


@pytest.mark.parametrize("kind", [Kind.BENCHMARK, Kind.IMPORTER, Kind.EXPORTER], ids=str)
def test_N10_a_new_package_of_any_kind_keeps_its_promises(kind: Kind, registry: Registry, tmp_path: Path) -> None:
    names = package_names("tried-out", kind, registry)
    folder = new_package(names, tmp_path / "new")
    info = tmp_path / "site" / f"{names.module}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {names.distribution}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[lensmith]\n{names.module} = {names.module}\n")
    (info / "RECORD").write_text("")
    path = os.pathsep.join([str(folder), str(info.parent)])
    command = [sys.executable, "-m", "lensmith.cli", "plugin", "test", names.distribution, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = {found["check"]: found["outcome"] for found in json.loads(done.stdout)}
    assert {check for check, outcome in told.items() if outcome == "pass"} == {
        *("spec", "light"),
        "answers" if kind is Kind.BENCHMARK else "trip",
    }


def test_the_command_says_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    app = build("plugin")
    app(["plugin", "new", "tiny", "--kind", "connector"], standalone_mode=False)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "",
        "    pip install --editable './lensmith-tiny[test]'",
        "    lensmith show connector tiny",
        "    lensmith plugin test tiny",
    ]
    with pytest.raises(lensmith.LensmithError, match="lensmith-tiny exists already; choose another folder"):
        app(["plugin", "new", "tiny", "--kind", "connector"], standalone_mode=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(lensmith.LensmithError, match=r"cannot be written: .*--output"):
        app(["plugin", "new", "tiny", "--kind", "connector", "--output", "file/new"], standalone_mode=False)
    app(["plugin", "new", "tiny", "--kind", "tuner", "--output", str(tmp_path / "a b")], standalone_mode=False)
    assert f"'{tmp_path}/a b[test]'" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b", "file", "lensmith-tiny"]


def _nodes(text: str, kind: type[ast.AST]) -> list[ast.AST]:
    try:
        return [node for node in ast.walk(ast.parse(text)) if isinstance(node, kind)]
    except SyntaxError:
        return []


def _imports(text: str) -> Iterator[str]:
    """Top-level names of the modules that code imports at its top."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]
