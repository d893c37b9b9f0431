"""The public interface changes with a line in the changelog, and its reference is what the docstrings say."""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import lensmith
import lensmith_registry

pytest.importorskip("griffe", reason="the interface is read with griffe")
ROOT = Path(__file__).parents[2]
CHANGELOG = ROOT / "CHANGELOG.md"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # the pages import the interface by this name
    spec.loader.exec_module(module)
    return module


api = script("interface")
reference = script("reference_pages")


def test_changes_since_the_last_release_are_in_the_changelog() -> None:
    """Cure of a failure: name it in CHANGELOG.md, unreleased section. Before the first release (or for one):
    `python docs/interface.py --write`."""
    _, released = api.read()
    silent = api.unmentioned(api.changes(released, api.interface()), CHANGELOG.read_text(encoding="utf-8"))
    assert silent == {}, "; ".join(f"{name} {what}" for name, what in silent.items())


def test_the_snapshot_is_of_the_last_release() -> None:
    """It may not be written anew to get around the changelog once there is a release."""
    of, _ = api.read()
    headings = re.findall(r"^## (\d\S*)(.*)$", CHANGELOG.read_text(encoding="utf-8"), re.M)
    released = [number for number, rest in headings if "unreleased" not in rest.lower()]
    assert of == (released[0] if released else version("lensmith"))


def test_every_public_name_is_in_it() -> None:
    interface = api.interface()
    for package in (lensmith, lensmith_registry):
        assert set(package.__all__) - interface.keys() == set()
    for name in ("Connector.forward", "Component.load", "StageSpec.lr", "connector.mlp.depth", "lensmith_components"):
        assert name in interface
    assert interface["Connector.tokens_out"] == "(self, tokens: int) -> int"
    assert not any("._" in name for name in interface if not name.endswith("__init__"))


BEFORE = {
    "load": "(a)",
    "Old": "class()",
    "Old.run": "()",
    "Part": "class()",
    "Part.run": "(x)",
    "connector.mlp.size": "2",
}
AFTER = {"load": "(a, b)", "New": "class()", "New.go": "()", "Part": "class()", "Part.run": "(x, y)", "Part.stop": "()"}


def test_what_counts_as_a_change() -> None:
    assert api.changes(BEFORE, BEFORE) == {}
    assert api.changes(BEFORE, AFTER) == {
        "New": "is new",
        "Old": "was removed",
        "Part.run": "was '(x)', is '(x, y)'",
        "Part.stop": "is new",
        "connector.mlp.size": "was removed",
        "load": "was '(a)', is '(a, b)'",
    }


@pytest.mark.parametrize(
    ("changelog", "silent"),
    [
        ("## Unreleased\n\nNothing.\n", {"New", "Old", "Part.run", "Part.stop", "connector.mlp.size", "load"}),
        ("## 0.2.0 (unreleased)\n- `New`, `Old`, `Part.run` and `mlp.size`\n", {"Part.stop", "load"}),
        (
            "## Unreleased\n- `load(path)`\n\n## 0.1.0\n- `New` `Old`\n",
            {"New", "Old", "Part.run", "Part.stop", "connector.mlp.size"},
        ),
        (
            "## Unreleased\n- `loader`, New, `Part.runner`, `x.load`\n",
            {"New", "Old", "Part.run", "Part.stop", "connector.mlp.size", "load"},
        ),
    ],
)
def test_what_the_changelog_must_name(changelog: str, silent: set[str]) -> None:
    assert set(api.unmentioned(api.changes(BEFORE, AFTER), changelog)) == silent


def test_a_snapshot_is_read_as_it_was_written(tmp_path: Path) -> None:
    api.write(tmp_path / "api.txt")
    assert api.read(tmp_path / "api.txt") == (version("lensmith"), api.interface())


def test_the_reference_is_up_to_date() -> None:
    """Cure of a failure: `python docs/reference_pages.py`."""
    written = {file.name: file.read_text(encoding="utf-8") for file in reference.FOLDER.glob("*.md")}
    wanted = reference.pages()
    assert sorted(name for name in {*written, *wanted} if written.get(name) != wanted.get(name)) == []


def test_every_public_name_has_a_page_and_a_docstring() -> None:
    pages = reference.pages()
    index = pages.pop("README.md")
    text = "\n".join(pages.values())
    for package in (lensmith, lensmith_registry):
        for name in package.__all__:
            assert f"[`{name}`](" in index
            assert len(re.findall(rf"^## {name}$", text, re.M)) == 1
            if name not in ("Box", "Size", "Parameters", "hookimpl", "hookspec"):  # types and marks without a text
                item = {**api.exported("lensmith_registry"), **api.exported("lensmith")}[name]
                assert item.docstring is not None, name


def test_links_of_the_policy_lead_somewhere() -> None:
    policy = ROOT / "docs" / "api_policy.md"
    for target in re.findall(r"\]\(([^)#]+)", policy.read_text(encoding="utf-8")):
        assert (policy.parent / target).exists()


def test_the_version_that_plugins_name() -> None:
    assert lensmith.API_VERSION == lensmith_registry.API_VERSION == 1


def test_a_renamed_name_goes_on_and_says_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lensmith._RENAMED, "read_spec", "load_spec")
    with pytest.warns(DeprecationWarning, match=r"lensmith\.read_spec is deprecated: use lensmith\.load_spec"):
        found = lensmith.read_spec  # type: ignore[attr-defined]
    assert found is lensmith.load_spec
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lensmith.load_spec is found
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lensmith.nothing  # type: ignore[attr-defined]
