"""Discovery through entry points: one plugin's failure stays its own, and is told with its package and the cure."""

from __future__ import annotations

import importlib.metadata
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from lensmith_registry import (
    API_VERSION,
    Component,
    DuplicateComponentError,
    Kind,
    PartSpec,
    Plugin,
    Registry,
    RegistryError,
    UnknownComponentError,
    discover,
    hookimpl,
    register,
)

Install = Callable[..., Path]
Discovered = Callable[[], Registry]
Good = Callable[[str, str], str]

HEAD = """
    from lensmith import Component, ConnectorSpec, Kind, hookimpl
    api_version = 1
    def record(name):
        return Component(Kind.CONNECTOR, name, ConnectorSpec, "m:C", "a part")
"""


def only_failure(registry: Registry) -> Plugin:
    (plugin,) = registry.failures
    return plugin


def test_a_plugin_is_found_with_its_provenance(install: Install, discovered: Discovered, good: Good) -> None:
    install("d_found", good("d_found", "found"), version="2.3", distribution="found-parts", entry="parts = d_found")
    registry = discovered()
    assert registry.failures == []
    (plugin,) = registry.plugins
    assert (plugin.name, plugin.distribution, plugin.version) == ("parts", "found-parts", "2.3")
    assert plugin.module == "d_found"
    component = registry.get(Kind.CONNECTOR, "found")
    assert (component.distribution, component.version) == ("found-parts", "2.3")
    assert component.spec.__doc__ == "A connector of a stranger."


def test_ours_come_by_the_same_door() -> None:
    registry = discover()
    ours = [c for c in registry.components() if c.implementation.startswith("lensmith_plugins.")]
    declared = {
        e.module for e in importlib.metadata.entry_points(group="lensmith") if e.dist and e.dist.name == "lensmith"
    }
    assert {p.module for p in registry.plugins if p.distribution == "lensmith"} == declared
    version = importlib.metadata.version("lensmith")
    assert {(c.distribution, c.version) for c in ours} == {("lensmith", version)}
    assert {c.kind for c in ours} == set(Kind)


def test_parts_are_listed_by_kind_and_name() -> None:
    def part(kind: Kind, name: str) -> Component:
        return Component(kind, name, PartSpec, "m:C", "a part", "theirs", "1")

    offered = (part(Kind.TUNER, "a"), part(Kind.CONNECTOR, "z"), part(Kind.CONNECTOR, "b"))
    registry = Registry([Plugin("p", "theirs", "1", "m", components=offered)])
    assert [str(c) for c in registry.components()] == ["connector 'b'", "connector 'z'", "tuner 'a'"]
    assert registry.names("connector") == ["b", "z"]
    assert registry.names(Kind.VISION_ENCODER) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import not_installed_at_all", ["ModuleNotFoundError", "not_installed_at_all"]),
        ("1 / 0", ["ZeroDivisionError", "division by zero"]),
        ("def f(:", ["SyntaxError"]),
        ("import sys; sys.exit(3)", ["SystemExit", "3"]),
        ("raise Exception", ["Exception"]),
        (HEAD.replace("api_version = 1", ""), ["does not say which interface", f"api_version = {API_VERSION}"]),
        (
            HEAD.replace("api_version = 1", "api_version = 99"),
            ["was written for api_version 99", f"this Lensmith has api_version {API_VERSION}", "d-broken"],
        ),
        (HEAD.replace("api_version = 1", "api_version = '1'"), ["api_version '1'", f"has api_version {API_VERSION}"]),
        (HEAD + "    @hookimpl\n    def lensmith_component(): return []", ["unknown hook 'lensmith_component'"]),
        (HEAD + "    @hookimpl\n    def lensmith_component(): return []", ["the hooks are: lensmith_components"]),
        (HEAD + "    @hookimpl\n    def lensmith_components(registry): return []", ["registry", "can not be found"]),
        (HEAD + "    def lensmith_components(): return []", ["not marked as a hook", "@lensmith.hookimpl"]),
        (
            HEAD + "    @hookimpl\n    def lensmith_components(): pass",
            ["returned None", "must return a list of Component"],
        ),
        (
            HEAD + "    @hookimpl\n    def lensmith_components(): return record('a')",
            ["must return a list of Component"],
        ),
        (HEAD + "    @hookimpl\n    def lensmith_components(): return ['mlp']", ["'mlp'", "not a Component"]),
        (HEAD + "    @hookimpl\n    def lensmith_components(): return [record('Big')]", ["'Big'", "lower-case"]),
        (HEAD + "    @hookimpl\n    def lensmith_components(): raise OSError('disk')", ["OSError: disk"]),
        (HEAD + "    @hookimpl\n    def lensmith_recipes(): return 'recipes'", ["must return a list of Path"]),
        (HEAD + "    @hookimpl\n    def lensmith_recipes(): return ['recipes']", ["not the path of a folder"]),
        (
            HEAD + "    import pathlib\n    @hookimpl\n    def lensmith_recipes(): return [pathlib.Path('/no/such')]",
            ["/no/such", "not the path of a folder"],
        ),
    ],
)
def test_a_broken_plugin_breaks_only_itself(
    code: str, words: list[str], install: Install, discovered: Discovered, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "d_broken", raising=False)
    monkeypatch.delitem(sys.modules, "d_beside", raising=False)
    install("d_broken", code, version="0.7")
    install("d_beside", good("d_beside", "works"))
    registry = discovered()
    plugin = only_failure(registry)
    assert (plugin.name, plugin.distribution, plugin.version, plugin.module) == (
        "d_broken",
        "d-broken",
        "0.7",
        "d_broken",
    )
    for word in words:
        assert word in plugin.error
    assert "Traceback" in plugin.details
    assert plugin.components == ()
    assert registry.names(Kind.CONNECTOR) == ["works"]


@pytest.mark.parametrize("entry", ["x = no_such_module_here", "x = json:NoSuchName", "x = not a module"])
def test_an_entry_point_that_leads_nowhere(entry: str, install: Install, discovered: Discovered) -> None:
    install("d_nowhere", "", entry=entry)
    plugin = only_failure(discovered())
    assert plugin.distribution == "d-nowhere"
    assert plugin.error


def test_an_entry_point_may_name_an_object(install: Install, discovered: Discovered) -> None:
    code = """
        from lensmith import Component, ConnectorSpec, Kind, hookimpl
        class Plugin:
            api_version = 1
            @staticmethod
            @hookimpl
            def lensmith_components():
                return [Component(Kind.CONNECTOR, "inside", ConnectorSpec, "m:C", "a part")]
    """
    install("d_object", code, entry="x = d_object:Plugin")
    registry = discovered()
    assert registry.failures == []
    assert registry.names("connector") == ["inside"]


def test_the_user_s_interrupt_at_import_is_never_held_back(install: Install, discovered: Discovered) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it
    try:
        install("d_interrupt", "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(10)")
        with pytest.raises(KeyboardInterrupt):
            discovered()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_distribution_that_is_half_removed(install: Install, discovered: Discovered, good: Good) -> None:
    folder = install("d_half", good("d_half", "half"))
    (folder / "d_half-1.0.dist-info" / "METADATA").unlink()
    registry = discovered()
    assert registry.names("connector") == ["half"]
    assert str(registry.plugins[0].distribution)


def test_a_distribution_that_is_seen_twice_is_loaded_once(install: Install, good: Good) -> None:
    folder = install("d_twice", good("d_twice", "twice"))
    (distribution,) = importlib.metadata.distributions(path=[str(folder)])
    registry = discover([*distribution.entry_points, *distribution.entry_points])
    assert len(registry.plugins) == 1
    assert registry.conflicts() == []


def test_names_resolve_exactly_and_close_matches_are_told(install: Install, discovered: Discovered, good: Good) -> None:
    install("d_exact", good("d_exact", "resampler"))
    registry = discovered()
    for wrong in ("Resampler", "resampler ", "resample", "resampler2"):
        with pytest.raises(UnknownComponentError) as caught:
            registry.get(Kind.CONNECTOR, wrong)
        assert f"no connector is called {wrong!r}. Did you mean 'resampler'? Installed: resampler." in str(caught.value)


def test_a_name_of_another_kind_is_told(install: Install, discovered: Discovered, good: Good) -> None:
    install("d_kind", good("d_kind", "resampler"))
    with pytest.raises(UnknownComponentError) as caught:
        discovered().get("tuner", "resampler")
    assert str(caught.value) == (
        "no tuner is called 'resampler'. Installed: none. ('resampler' is the name of a connector.)"
    )


def test_an_unknown_name_mentions_the_plugins_that_failed(install: Install, discovered: Discovered) -> None:
    install("d_lost", "import not_installed_at_all", version="0.3")
    with pytest.raises(UnknownComponentError) as caught:
        discovered().get("connector", "lost")
    for words in ("d-lost 0.3 may provide it but failed", "not_installed_at_all", "`lensmith plugins`"):
        assert words in str(caught.value)


def test_two_distributions_with_one_name(install: Install, discovered: Discovered, good: Good) -> None:
    install("d_first", good("d_first", "same"), version="1.1")
    install("d_second", good("d_second", "same"), version="2.2")
    install("d_third", good("d_third", "other"))
    registry = discovered()
    with pytest.raises(DuplicateComponentError) as caught:
        registry.get("connector", "same")
    assert str(caught.value) == (
        "connector 'same' is offered by d-first 1.1 and d-second 2.2; name the one that you mean: 'd-first:same' or"
        " 'd-second:same'."
    )
    assert registry.conflicts() == [str(caught.value)]
    assert registry.names("connector") == ["d-first:same", "d-second:same", "other"]
    assert registry.failures == []


def test_one_distribution_with_one_name_twice(install: Install, discovered: Discovered) -> None:
    install("d_again", HEAD + "    @hookimpl\n    def lensmith_components(): return [record('same'), record('same')]")
    (conflict,) = discovered().conflicts()
    assert conflict == "connector 'same' is offered 2 times by d-again 1.0; that package must rename all but one."


def test_one_name_of_two_kinds_is_no_conflict() -> None:
    def part(kind: Kind) -> Component:
        return Component(kind, "vicuna", PartSpec, "m:C", "a part", "theirs", "1")

    registry = Registry(
        [Plugin("p", "theirs", "1", "m", components=(part(Kind.CONVERSATION), part(Kind.LANGUAGE_MODEL)))]
    )
    assert registry.conflicts() == []
    assert registry.get("conversation", "vicuna").kind is Kind.CONVERSATION
    assert registry.get("language_model", "vicuna").kind is Kind.LANGUAGE_MODEL


def test_register_checks_a_module_at_hand(tmp_path: Path) -> None:
    module = types.ModuleType("at_hand")

    @hookimpl
    def lensmith_recipes() -> list[Path]:
        return [tmp_path]

    vars(module).update(api_version=API_VERSION, lensmith_recipes=lensmith_recipes)
    plugin = register("p", module, "theirs", "1")
    assert (plugin.components, plugin.recipes) == ((), (tmp_path,))
    assert Registry([plugin]).recipes() == [tmp_path]
    vars(module).update(api_version=0)
    with pytest.raises(RegistryError, match="api_version 0"):
        register("p", module, "theirs", "1")


def test_an_unknown_kind_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="conector"):
        Registry().get("conector", "mlp")
