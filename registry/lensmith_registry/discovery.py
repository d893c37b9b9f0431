"""Find plugins through entry points, one at a time, so that a broken one breaks only itself."""

from __future__ import annotations

import difflib
import importlib.metadata
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

from lensmith_registry import hooks
from lensmith_registry.component import Component, Kind
from lensmith_registry.errors import DuplicateComponentError, RegistryError, UnknownComponentError


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `lensmith`, working or not."""

    name: str
    distribution: str
    version: str
    module: str
    error: str = ""
    """Why it could not be used; empty for a working plugin."""
    details: str = ""
    """The traceback behind `error`, where there is one."""
    components: tuple[Component, ...] = ()
    recipes: tuple[Path, ...] = ()


@dataclass
class Registry:
    """All parts that are installed, by kind and exact name."""

    plugins: list[Plugin] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._components: dict[tuple[Kind, str], list[Component]] = {}
        for plugin in self.plugins:
            for component in plugin.components:
                self._components.setdefault((component.kind, component.name), []).append(component)

    @property
    def failures(self) -> list[Plugin]:
        """Plugins that could not be used."""
        return [plugin for plugin in self.plugins if plugin.error]

    def components(self, kind: Kind | str | None = None) -> Iterator[Component]:
        """Every usable component, sorted by kind and name; those claimed twice are left out."""
        wanted = Kind(kind) if kind is not None else None
        order = list(Kind)
        for (found_kind, _), claims in sorted(self._components.items(), key=lambda i: (order.index(i[0][0]), i[0][1])):
            if len(claims) == 1 and (wanted is None or found_kind == wanted):
                yield claims[0]

    def conflicts(self) -> list[str]:
        """One message for each kind and name that two plugins claim."""
        return [self._conflict(claims) for claims in self._components.values() if len(claims) > 1]

    def names(self, kind: Kind | str) -> list[str]:
        """The exact names of one kind."""
        return [component.name for component in self.components(kind)]

    def get(self, kind: Kind | str, name: str) -> Component:
        """The component of that kind and exact name.

        Raises:
            DuplicateComponentError: two distributions claim it; both are named.
            UnknownComponentError: nobody offers it; close matches, all names of the kind and broken plugins are told.
        """
        kind = Kind(kind)
        claims = self._components.get((kind, name), [])
        if len(claims) == 1:
            return claims[0]
        if claims:
            raise DuplicateComponentError(self._conflict(claims))
        raise UnknownComponentError(self.unknown(kind, name))

    def unknown(self, kind: Kind | str, name: str) -> str:
        """The message for a name that is not there."""
        kind = Kind(kind)
        names = self.names(kind)
        close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
        text = f"no {kind} is called {name!r}."
        if close:
            text += f" Did you mean {' or '.join(repr(c) for c in close)}?"
        text += f" Installed: {', '.join(names) or 'none'}."
        elsewhere = sorted({k.value for (k, n) in self._components if n == name and k != kind})
        if elsewhere:
            text += f" ({name!r} is the name of a {' and a '.join(elsewhere)}.)"
        for plugin in self.failures:
            text += (
                f" Package {plugin.distribution} {plugin.version} may provide it but failed: {plugin.error}"
                " (see `lensmith plugins`)."
            )
        return text

    def recipes(self) -> list[Path]:
        """Folders of recipes, ours and strangers'."""
        return [folder for plugin in self.plugins for folder in plugin.recipes]

    @staticmethod
    def _conflict(claims: list[Component]) -> str:
        owners = sorted({f"{c.distribution} {c.version}" for c in claims})
        if len(owners) == 1:
            return f"{claims[0]} is offered {len(claims)} times by {owners[0]}; that package must rename all but one."
        return f"{claims[0]} is offered by {' and '.join(owners)}; uninstall all but one of them."


def discover(entry_points: Iterable[importlib.metadata.EntryPoint] | None = None) -> Registry:
    """Load every plugin of the entry-point group `lensmith`, each on its own.

    Args:
        entry_points: the ones to load; by default all that are installed.

    Never raises for a plugin's sake: what failed is in `Registry.failures`.
    """
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=hooks.ENTRY_POINT_GROUP)
    owners = _Owners()
    # An editable install is listed twice where both its source tree and site-packages are on the path.
    unique = {(e.name, e.value, owners.of(e)[0]): e for e in entry_points}
    return Registry([_load(unique[key], *owners.of(unique[key])) for key in sorted(unique)])


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
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    known = sorted(n for n in vars(hooks) if n.startswith("lensmith_"))
    # pluggy accepts a misspelt hook in silence until asked.
    try:
        manager.register(module, name=name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise RegistryError(f"{error}; the hooks are: {', '.join(known)}") from error
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
    return Plugin(name, distribution, version, _module_name(module), "", "", tuple(components), tuple(recipes))


def _offered(hook: pluggy.HookCaller, what: str) -> Iterator[Any]:
    """What a plugin's hook returns; pluggy leaves a forgotten `return` out in silence."""
    results = hook()
    if hook.get_hookimpls() and not results:
        raise RegistryError(f"{hook.name}() returned None; it must return a list of {what}")
    for offered in results:
        if not isinstance(offered, Iterable) or isinstance(offered, str):
            raise RegistryError(f"{hook.name}() returned {offered!r}; it must return a list of {what}")
        yield from offered


def _load(entry_point: importlib.metadata.EntryPoint, distribution: str, version: str) -> Plugin:
    try:
        return register(entry_point.name, entry_point.load(), distribution, version)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a plugin may even call sys.exit() while it is imported
        message = str(error) if isinstance(error, RegistryError) else f"{type(error).__name__}: {error}"
        return Plugin(
            entry_point.name, distribution, version, entry_point.value, message, "".join(traceback.format_exc())
        )


def _module_name(module: Any) -> str:
    return str(getattr(module, "__name__", type(module).__name__))
