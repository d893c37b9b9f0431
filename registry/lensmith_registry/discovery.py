"""Find plugins through entry points, one at a time, so that a broken one breaks only itself."""

from __future__ import annotations

import difflib
import importlib.metadata
import traceback
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pluggy

from lensmith_registry import hooks
from lensmith_registry.component import Component, Kind, PartSpec
from lensmith_registry.entry_points import installed_entry_points
from lensmith_registry.errors import DuplicateComponentError, RegistryError, UnknownComponentError
from lensmith_registry.remedies import remedy
from lensmith_registry.switches import DISABLE, disabled_names, hook_manager


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
    remedy: str = ""
    """What the user of a failing plugin can do."""
    components: tuple[Component, ...] = ()
    recipes: tuple[Path, ...] = ()
    disabled: bool = False
    """Whether `LENSMITH_DISABLE_PLUGINS` left it out; then it was not imported."""


@dataclass
class Registry:
    """All parts that are installed, by kind and exact name."""

    plugins: list[Plugin] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._components: dict[tuple[Kind, str], list[Component]] = {}
        for plugin in self.plugins:
            for component in plugin.components:
                self._components.setdefault((component.kind, component.name), []).append(component)
        self._usable: dict[Kind, list[Component]] = {kind: [] for kind in Kind}
        for (kind, _), claims in sorted(self._components.items(), key=lambda item: item[0][1]):
            if len(claims) == 1:
                self._usable[kind].append(claims[0])

    @property
    def failures(self) -> list[Plugin]:
        """Plugins that could not be used."""
        return [plugin for plugin in self.plugins if plugin.error]

    def imported(self) -> Registry:
        """The same with every spec class imported: a plugin that names one that is not there has failed."""
        return Registry([_with_specs(plugin) for plugin in self.plugins])

    def choices(self, kind: Kind | str, base: type[PartSpec], named: Container[str] | None = None) -> list[Component]:
        """The components of a kind whose spec derives from a base.

        Args:
            kind: of all of them.
            base: what their specs must derive from.
            named: names that are asked for; the others are taken at their word, so that their specs need not be
                imported. By default all are looked at, and those without a spec that can be imported left out.
        """
        return [c for c in self.components(kind) if _derives(c, base, named)]

    def components(self, kind: Kind | str | None = None) -> Iterator[Component]:
        """Every usable component, sorted by kind and name; those claimed twice are left out."""
        for wanted in (Kind(kind),) if kind is not None else Kind:
            yield from self._usable[wanted]

    def of_spec(self, spec: type[PartSpec], kind: Kind | str | None = None) -> list[Component]:
        """The components of a spec class, e.g. of a part that was made in Python."""
        return [c for c in self.components(kind) if _spec_or_none(c) is spec]

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
        for plugin in self.plugins:
            if plugin.disabled:
                text += (
                    f" Plugin {plugin.name!r} of {plugin.distribution} {plugin.version} may provide it but is disabled;"
                    f" take it out of the environment variable {DISABLE} to use it."
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

    Two environment variables change it: `LENSMITH_DISABLE_PLUGINS=NAME,…` leaves plugins out (by the name of the
    plugin or of its distribution), `LENSMITH_TRACE_PLUGINS=1` prints every hook call on standard error.

    Args:
        entry_points: the ones to load; by default all that are installed.

    Raises:
        RegistryError: `LENSMITH_DISABLE_PLUGINS` names a plugin that is not there. Never for a plugin's sake: what
            failed is in `Registry.failures`.
    """
    if entry_points is None:
        found = list(installed_entry_points(hooks.ENTRY_POINT_GROUP))
    else:
        owners = _Owners()
        found = [(e, *owners.of(e)) for e in entry_points]
    # An editable install is listed twice where both its source tree and site-packages are on the path.
    unique = {(e.name, e.value, distribution): (e, distribution, version) for e, distribution, version in found}
    listed = [unique[key] for key in sorted(unique)]
    disabled = disabled_names([(e.name, distribution) for e, distribution, _ in listed])
    return Registry(
        [
            Plugin(e.name, distribution, version, e.value, disabled=True)
            if {e.name, distribution} & disabled
            else _load(e, distribution, version)
            for e, distribution, version in listed
        ]
    )


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
    found = Plugin(name, distribution, version, _module_name(module))
    return replace(found, components=tuple(components), recipes=tuple(recipes))


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


def _load(entry_point: importlib.metadata.EntryPoint, distribution: str, version: str) -> Plugin:
    try:
        return register(entry_point.name, entry_point.load(), distribution, version)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a plugin may even call sys.exit() while it is imported
        message = str(error) if isinstance(error, RegistryError) else f"{type(error).__name__}: {error}"
        told = remedy(error, entry_point.name, distribution)
        return Plugin(
            entry_point.name, distribution, version, entry_point.value, message, "".join(traceback.format_exc()), told
        )


def _module_name(module: Any) -> str:
    return str(getattr(module, "__name__", type(module).__name__))


def _derives(component: Component, base: type[PartSpec], named: Container[str] | None) -> bool:
    if named is not None:
        return component.name not in named or issubclass(component.spec, base)
    spec = _spec_or_none(component)
    return spec is not None and issubclass(spec, base)


def _spec_or_none(component: Component) -> type[PartSpec] | None:
    try:
        return component.spec
    except RegistryError:  # told by `lensmith plugins`, and to whoever names the part
        return None


def _with_specs(plugin: Plugin) -> Plugin:
    for component in plugin.components:
        try:
            _ = component.spec
        except RegistryError as error:
            details = "".join(traceback.format_exception(error))
            told = remedy(error, plugin.name, plugin.distribution)
            return replace(plugin, components=(), error=str(error), details=details, remedy=told)
    return plugin
