"""A machine with hundreds of distributions and plugins: what looks at parts stays light and imports what it needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lensmith_registry import BrokenPluginError, Component, Kind, PartSpec, Plugin, Registry, RegistryError, discover
from lensmith_registry.entry_points import installed_entry_points, name_and_version

CROWD = Path(__file__).parents[2] / "benchmarks" / "startup" / "crowd.py"


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the benchmark of start-up measures: 300 distributions, 50 plugins of 20 components."""
    installed: Path = module(CROWD).install(tmp_path_factory.mktemp("crowd"))
    return installed


def run(crowd: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """A command among the crowd, and the modules that it has imported."""
    code = (
        "import atexit, sys; atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr));"
        "from lensmith.cli import main; main()"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(crowd)})
    assert done.returncode == 0, done.stderr
    return done, set(done.stderr.splitlines()[-1].split())


def test_list_imports_neither_torch_nor_a_single_spec(crowd: Path) -> None:
    done, modules = run(crowd, "list", "--json")
    parts = json.loads(done.stdout)
    assert sum(part["distribution"].startswith("crowd-") for part in parts) == 1000
    assert {"torch", "transformers", "PIL", "numpy"}.isdisjoint(modules)
    assert "crowd_000" in modules
    assert [name for name in modules if name.startswith("crowd_") and "." in name] == []


def test_check_imports_neither_torch_nor_a_spec_that_is_not_named(
    crowd: Path, light_spec: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(light_spec))
    done, modules = run(crowd, "check", str(file))
    assert "is valid" in done.stdout
    assert {"torch", "transformers", "PIL", "numpy"}.isdisjoint(modules)
    assert [name for name in modules if name.startswith("crowd_") and "." in name] == []


def test_the_scan_finds_what_the_standard_library_finds() -> None:
    ours = {(e.name, e.value, name, version) for e, name, version in installed_entry_points("lensmith")}
    theirs = {
        (e.name, e.value, e.dist.name, e.dist.version)
        for e in importlib.metadata.entry_points(group="lensmith")
        if e.dist
    }
    assert ours == theirs
    assert ours


def test_name_and_version_are_those_of_the_metadata() -> None:
    for distribution in importlib.metadata.distributions():
        assert name_and_version(distribution) == (distribution.name, distribution.version)


def test_of_two_versions_the_first_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, version in (("old", "1.0"), ("new", "2.0")):
        info = tmp_path / folder / f"twice_parts-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: Twice.Parts\nVersion: {version}\n")
        (info / "entry_points.txt").write_text("[lensmith]\ntwice = twice\n")
        monkeypatch.syspath_prepend(tmp_path / folder)
    found = [(name, version) for e, name, version in installed_entry_points("lensmith") if e.name == "twice"]
    assert found == [("Twice.Parts", "2.0")]


def late(address: str, **fields: Any) -> Component:
    return Component(Kind.CONNECTOR, "late", address, "m:C", "a part", "late-parts", "0.3", **fields)


def test_a_spec_that_is_named_is_imported_when_it_is_asked_for(install: Callable[..., Path]) -> None:
    install("n_late", "from lensmith import ConnectorSpec\nclass Late(ConnectorSpec):\n    depth: int = 2\n")
    component = late("n_late:Late")
    for touched in (component, component.from_distribution("other", "1"), str(component), repr(component)):
        assert touched
    assert component == late("n_late:Late")
    assert hash(component) == hash(late("n_late:Late"))
    assert "n_late" not in sys.modules
    assert issubclass(component.spec, PartSpec)
    assert component.spec().model_dump() == {"depth": 2}


@pytest.mark.parametrize(
    ("code", "address", "words"),
    [
        ("import nothing_like_it", "n_late_a:Spec", "n_late_a:Spec): ModuleNotFoundError"),
        ("Spec = 3", "n_late_b:Nope", "module n_late_b has no 'Nope'"),
        ("Spec = dict", "n_late_c:Spec", "spec must be a subclass of lensmith.PartSpec"),
        (
            "from lensmith_registry import PartSpec\nclass Spec(PartSpec):\n    name: str = ''",
            "n_late_d:Spec",
            "has a field `name` in Spec",
        ),
    ],
)
def test_a_spec_that_is_not_there_is_its_plugins_failure(
    install: Callable[..., Path], code: str, address: str, words: str
) -> None:
    install(address.partition(":")[0], code)
    broken = late(address)
    with pytest.raises(BrokenPluginError) as caught:
        _ = broken.spec
    assert words in str(caught.value)
    assert "late-parts 0.3" in str(caught.value)
    whole = Component(Kind.CONNECTOR, "whole", PartSpec, "m:C", "a part", "whole-parts", "1")
    plugins = [Plugin("late", "late-parts", "0.3", "m", components=(broken,))]
    plugins += [Plugin("whole", "whole-parts", "1", "m", components=(whole,))]
    registry = Registry(plugins)
    assert registry.names("connector") == ["late", "whole"]
    assert registry.choices("connector", PartSpec) == [whole]
    assert registry.of_spec(PartSpec) == [whole]
    checked = registry.imported()
    assert [plugin.name for plugin in checked.failures] == ["late"]
    assert words in checked.failures[0].error
    assert checked.names("connector") == ["whole"]


def test_choices_take_those_that_are_not_asked_for_at_their_word() -> None:
    registry = Registry([Plugin("p", "late-parts", "0.3", "m", components=(late("no_such_module:Spec"),))])
    assert len(registry.choices("connector", PartSpec, named=frozenset())) == 1
    with pytest.raises(BrokenPluginError, match="no_such_module"):
        registry.choices("connector", PartSpec, named={"late"})


# What users switch by environment variables.


@pytest.mark.parametrize("said", ["e_left", "left-parts", " e_left , "])
def test_a_disabled_plugin_is_not_imported_and_says_so(
    install: Callable[..., Path],
    discovered: Callable[[], Registry],
    good: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
    said: str,
) -> None:
    install("e_left", "raise RuntimeError('imported')", distribution="left-parts", version="0.7")
    install("e_stays", good("e_stays", "stays"))
    monkeypatch.setenv("LENSMITH_DISABLE_PLUGINS", said)
    registry = discovered()
    assert registry.failures == []
    assert [(p.name, p.disabled) for p in registry.plugins] == [("e_left", True), ("e_stays", False)]
    with pytest.raises(RegistryError) as caught:
        registry.get("connector", "lost")
    for words in ("'e_left' of left-parts 0.7", "is disabled", "LENSMITH_DISABLE_PLUGINS", "Installed: stays"):
        assert words in str(caught.value)


def test_an_unknown_name_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENSMITH_DISABLE_PLUGINS", "tuners,conectors")
    with pytest.raises(RegistryError) as caught:
        discover()
    for words in ("'conectors'", "Did you mean 'connectors'?", "lensmith (", "vision_encoders"):
        assert words in str(caught.value)


@pytest.mark.parametrize(("value", "lines"), [("1", 1), ("0", 0), ("", 0)])
def test_hook_calls_are_printed_where_asked(
    install: Callable[..., Path],
    discovered: Callable[[], Registry],
    good: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    value: str,
    lines: int,
) -> None:
    install(f"f_seen{lines}{value}", good(f"f_seen{lines}{value}", "seen"), distribution="seen-parts", version="4.1")
    monkeypatch.setenv("LENSMITH_TRACE_PLUGINS", value)
    assert discovered().names("connector") == ["seen"]
    monkeypatch.delenv("LENSMITH_TRACE_PLUGINS")
    discovered()  # nothing of it stays behind
    printed = [line for line in capsys.readouterr().err.splitlines() if "lensmith_components()" in line]
    assert len(printed) == lines
    for line in printed:
        assert "f_seen" in line
        assert "seen-parts 4.1): 1 returned (connector 'seen')" in line
