"""Find plugins through entry points, one at a time, so that a broken one breaks only itself."""

from __future__ import annotations

import difflib
import importlib.metadata
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pluggy

from lensmith_registry import hooks
from lensmith_registry.component import Component
from lensmith_registry.entry_points import installed_entry_points
from lensmith_registry.errors import RegistryError
from lensmith_registry.files import load_file, named_files, version_of
from lensmith_registry.installed import Plugin, Registry
from lensmith_registry.isolation import isolated
from lensmith_registry.probe import Probe
from lensmith_registry.remedies import failure_report
from lensmith_registry.switches import disabled_names, hook_manager, trace


def discover(entry_points: Iterable[importlib.metadata.EntryPoint] | None = None) -> Registry:
    """Load every plugin of the entry-point group `lensmith`, each on its own.

    Environment variables change it: `LENSMITH_DISABLE_PLUGINS=NAME,…` leaves plugins out (by the name of the plugin or
    of its distribution), `LENSMITH_PLUGIN_FILES=FILE.py` adds single files, `LENSMITH_TRACE_PLUGINS=1` prints every
    hook call on standard error.

    Args:
        entry_points: the ones to load; by default all that are installed.

    Raises:
        RegistryError: one of these variables names what is not there. Never for a plugin's sake: what failed is in
            `Registry.failures`.
    """
    files = named_files() if entry_points is None else []
    if entry_points is None:
        found = list(installed_entry_points(hooks.ENTRY_POINT_GROUP))
    else:
        owners = _Owners()
        found = [(e, *owners.of(e)) for e in entry_points]
    # An editable install is listed twice where both its source tree and site-packages are on the path.
    unique = {(e.name, e.value, distribution): (e, distribution, version) for e, distribution, version in found}
    listed = [unique[key] for key in sorted(unique)]
    wanted = [
        *(
            _Wanted(e.name, distribution, version, e.value, partial(_import, e, distribution))
            for e, distribution, version in listed
        ),
        *(_Wanted(file.stem, file.name, version_of(file), file.stem, partial(load_file, file)) for file in files),
    ]
    disabled = disabled_names([(plugin.name, plugin.distribution) for plugin in wanted])
    return Registry(
        [
            Plugin(plugin.name, plugin.distribution, plugin.version, plugin.module, disabled=True)
            if {plugin.name, plugin.distribution} & disabled
            else _load(plugin)
            for plugin in wanted
        ]
    )


@dataclass(frozen=True)
class _Wanted:
    """A plugin before its code has run: its names, and what imports its module."""

    name: str
    distribution: str
    version: str
    module: str
    load: Callable[[], Any]


class _Owners:
    """Name and version of entry points' distributions; each look into the metadata parses the whole file."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[importlib.metadata.Distribution | None, str, str]] = {}

    def of(self, entry_point: importlib.metadata.EntryPoint) -> tuple[str, str]:
        owner = entry_point.dist
        if id(owner) not in self._known:
            # A half-removed distribution has lost its name and version with its METADATA file.
            name, version = (owner.name, owner.version) if owner else (None, None)
            self._known[id(owner)] = (owner, name or "an unknown package", version or "")
        return self._known[id(owner)][1:]


def register(name: str, module: Any, distribution: str, version: str) -> Plugin:
    """Check one plugin module and collect what it offers.

    Raises:
        RegistryError: wrong or missing `api_version`, misspelt hook, malformed record.
    """
    declared = getattr(module, "api_version", None)
    if declared is None:
        raise RegistryError(
            f"plugin {name!r} does not say which interface it was written for;"
            f" add `api_version = {hooks.API_VERSION}` to {getattr(module, '__name__', module)}"
        )
    if declared != hooks.API_VERSION:
        raise RegistryError(
            f"plugin {name!r} was written for api_version {declared!r}, this Lensmith has api_version"
            f" {hooks.API_VERSION}; install versions of {distribution} and lensmith that agree"
        )
    with hook_manager(f"{distribution} {version}".strip()) as manager:
        return _collect(manager, name, module, distribution, version)


def _collect(manager: pluggy.PluginManager, name: str, module: Any, distribution: str, version: str) -> Plugin:
    known = sorted(n for n in vars(hooks) if n.startswith("lensmith_"))
    # pluggy accepts a misspelt hook in silence until asked.
    try:
        manager.register(module, name=name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        text = str(error).replace(repr(module), repr(name))
        raise RegistryError(f"{text}; the hooks are: {', '.join(known)}{_meant(module, known)}") from error
    for hook in known:
        if callable(getattr(module, hook, None)) and manager.parse_hookimpl_opts(module, hook) is None:
            raise RegistryError(f"plugin {name!r}: {hook}() is not marked as a hook; put @lensmith.hookimpl above it")
    components: list[Component] = []
    for component in _offered(manager.hook.lensmith_components, "Component"):
        if not isinstance(component, Component):
            raise RegistryError(f"lensmith_components() returned {component!r}, which is not a Component")
        components.append(component.from_distribution(distribution, version))
    recipes: list[Path] = []
    for folder in _offered(manager.hook.lensmith_recipes, "Path"):
        if not isinstance(folder, Path) or not folder.is_dir():
            raise RegistryError(f"lensmith_recipes() returned {folder!r}, which is not the path of a folder")
        recipes.append(folder)
    probes: list[Probe] = []
    for probe in _offered(manager.hook.lensmith_probes, "Probe"):
        if not isinstance(probe, Probe):
            raise RegistryError(f"lensmith_probes() returned {probe!r}, which is not a Probe")
        probes.append(probe)
    found = Plugin(name, distribution, version, _module_name(module))
    return replace(found, components=tuple(components), recipes=tuple(recipes), probes=tuple(probes))


def _meant(module: Any, known: list[str]) -> str:
    """A question about each name in a module that is nearly a hook's."""
    written = [name for name in vars(module) if name.startswith("lensmith_") and name not in known]
    guesses = [(name, *difflib.get_close_matches(name, known, n=1)) for name in written]
    return "".join(f". Rename {guess[0]} to {guess[1]}" for guess in guesses if len(guess) == 2)


def _offered(hook: pluggy.HookCaller, what: str) -> Iterator[Any]:
    """What a plugin's hook returns; pluggy leaves a forgotten `return` out in silence."""
    results = hook()
    if hook.get_hookimpls() and not results:
        raise RegistryError(f"{hook.name}() returned None; it must return a list of {what}")
    for offered in results:
        if not isinstance(offered, Iterable) or isinstance(offered, str):
            raise RegistryError(f"{hook.name}() returned {offered!r}; it must return a list of {what}")
        yield from offered


def _import(entry_point: importlib.metadata.EntryPoint, distribution: str) -> Any:
    if not entry_point.pattern.match(entry_point.value):
        raise RegistryError(
            f"entry_points.txt of {distribution} says {entry_point.value!r}, which names no module; a line must"
            f" read `{entry_point.name.split()[0]} = package.module`"
        )
    return entry_point.load()


def _load(wanted: _Wanted) -> Plugin:
    name, distribution, version = wanted.name, wanted.distribution, wanted.version
    began, before = time.perf_counter(), _heavy()
    with isolated() as watch:
        try:
            plugin = register(name, wanted.load(), distribution, version)
        except BaseException as error:  # a plugin may even call sys.exit() or raise KeyboardInterrupt
            if isinstance(error, KeyboardInterrupt) and watch.interrupted:
                raise
            report = failure_report(error, name, distribution)
            plugin = Plugin(name, distribution, version, wanted.module, **report)
    took = time.perf_counter() - began
    trace(f"import {wanted.module} of plugin {name} ({distribution} {version}): {1000 * took:.1f} ms")
    return replace(plugin, seconds=took, heavy=tuple(sorted(_heavy() - before)))


def _heavy() -> set[str]:
    """Large packages that are imported."""
    return {"torch", "transformers", "tensorflow", "jax", "deepspeed"} & sys.modules.keys()


def _module_name(module: Any) -> str:
    return str(getattr(module, "__name__", type(module).__name__))
