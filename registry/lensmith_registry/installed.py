"""What is installed: plugins, their parts, and the rules by which a name finds one."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lensmith_registry import hooks
from lensmith_registry.component import Component, Kind, PartSpec
from lensmith_registry.errors import DuplicateComponentError, RegistryError, UnknownComponentError
from lensmith_registry.probe import Probe
from lensmith_registry.remedies import failure_report
from lensmith_registry.switches import DISABLE

SLOW_SECONDS = 0.5
"""A plugin that takes longer to import is told."""
BUILT_IN = hooks.PROJECT
"""The distribution whose parts keep their names, whatever else is installed."""
SEPARATOR = ":"
"""Between a distribution and the name of its part, where the name alone would mean another part."""


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
    probes: tuple[Probe, ...] = ()
    disabled: bool = False
    """Whether `LENSMITH_DISABLE_PLUGINS` left it out; then it was not imported."""
    seconds: float = 0.0
    """How long its import and its hooks took."""
    heavy: tuple[str, ...] = ()
    """Large packages that its import brought in, e.g. torch; every command waits for them."""

    @property
    def slow(self) -> str:
        """What to know of a plugin that every command waits for; empty for a quick one."""
        if self.distribution == BUILT_IN or self.seconds < SLOW_SECONDS:
            return ""
        why = f", for it imports {' and '.join(self.heavy)}" if self.heavy else ""
        return (
            f"plugin {self.name!r} of {self.distribution} {self.version} took {self.seconds:.1f} s to import{why};"
            " every command waits for it. Its authors can move such imports into the functions that need them"
        )


@dataclass
class Registry:
    """All parts that are installed, by kind and exact name."""

    plugins: list[Plugin] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._claims: dict[tuple[Kind, str], list[Component]] = {}
        for plugin in self.plugins:
            for component in plugin.components:
                self._claims.setdefault((component.kind, component.name), []).append(component)
        self._usable: dict[Kind, dict[str, Component]] = {kind: {} for kind in Kind}
        for (kind, _), claims in self._claims.items():
            for component in _resolved(claims):
                self._usable[kind][component.name] = component
        for kind, found in self._usable.items():
            self._usable[kind] = dict(sorted(found.items()))

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
        """Every usable component by the name that a spec writes, sorted by kind and name.

        Of two that claim one name, a built-in part keeps it; the others are named `distribution:name`.
        """
        for wanted in (Kind(kind),) if kind is not None else Kind:
            yield from self._usable[wanted].values()

    def placed(self, component: Component) -> Component:
        """A plugin's component under the name that a spec writes for it.

        Raises:
            DuplicateComponentError: its distribution claims the name more than once.
        """
        return self.get(component.kind, f"{component.distribution}{SEPARATOR}{component.name}")

    def of_spec(self, spec: type[PartSpec], kind: Kind | str | None = None) -> list[Component]:
        """The components of a spec class, e.g. of a part that was made in Python."""
        return [c for c in self.components(kind) if _spec_or_none(c) is spec]

    def conflicts(self) -> list[str]:
        """One message for each kind and name that two plugins claim, with the names to use instead."""
        return [_conflict(claims) for claims in self._claims.values() if len(claims) > 1]

    def names(self, kind: Kind | str) -> list[str]:
        """The exact names of one kind."""
        return [component.name for component in self.components(kind)]

    def get(self, kind: Kind | str, name: str) -> Component:
        """The component of that kind and exact name, which may be qualified: `distribution:name`.

        Raises:
            DuplicateComponentError: two distributions claim it, neither of them Lensmith; both are named.
            UnknownComponentError: nobody offers it; close matches, all names of the kind and broken plugins are told.
        """
        kind = Kind(kind)
        if name in self._usable[kind]:
            return self._usable[kind][name]
        if claims := self._claims.get((kind, name)):
            raise DuplicateComponentError(_conflict(claims))
        distribution, separator, part = name.partition(SEPARATOR)
        claims = self._claims.get((kind, part), []) if separator else []
        of_it = [c for c in claims if _normal(c.distribution) == _normal(distribution)]
        if len(of_it) > 1:
            raise DuplicateComponentError(_conflict(of_it))
        if of_it:
            qualified = _qualified(of_it[0])
            return self._usable[kind].get(qualified.name) or self._usable[kind][part]
        raise UnknownComponentError(self.unknown(kind, name))

    def unknown(self, kind: Kind | str, name: str) -> str:
        """The message for a name that is not there."""
        kind = Kind(kind)
        names = self.names(kind)
        close = difflib.get_close_matches(name.lower()[:100], names, n=3, cutoff=0.6)
        text = f"no {kind} is called {name!r}."
        called = [c.written_for(name) for c in self.components(kind)] if len(name) < 100 else []
        if told := [written for written in called if written is not None]:
            text += f" Other tools' {name!r} is {' or '.join(told[:3])} here."
        elif close:
            text += f" Did you mean {' or '.join(repr(c) for c in close)}?"
        text += f" Installed: {', '.join(names) or 'none'}."
        elsewhere = sorted({k.value for (k, n) in self._claims if n == name and k != kind})
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

    def probes(self) -> list[Probe]:
        """What plugins would have `lensmith doctor` see, each once."""
        return list(dict.fromkeys(probe for plugin in self.plugins for probe in plugin.probes))

    def recipes(self) -> list[Path]:
        """Folders of recipes, ours and strangers'."""
        return [folder for plugin in self.plugins for folder in plugin.recipes]


def _resolved(claims: list[Component]) -> Iterator[Component]:
    """The components of one kind and name under the names by which a spec tells them apart."""
    if len(claims) == 1:
        yield claims[0]
        return
    by_owner: dict[str, list[Component]] = {}
    for component in claims:
        by_owner.setdefault(_normal(component.distribution), []).append(component)
    for owner, own in by_owner.items():
        if len(own) == 1 and (owner == BUILT_IN or len(by_owner) > 1):
            yield own[0] if owner == BUILT_IN else _qualified(own[0])


def _qualified(component: Component) -> Component:
    named = copy.copy(component)  # not dataclasses.replace, which would check the name and ask for the spec
    named.__dict__["name"] = f"{component.distribution}{SEPARATOR}{component.name}"
    return named


def _conflict(claims: list[Component]) -> str:
    """What two claims of one name mean for whoever writes it in a spec."""
    owners = sorted({f"{c.distribution} {c.version}" for c in claims})
    if len({_normal(c.distribution) for c in claims}) == 1:
        return f"{claims[0]} is offered {len(claims)} times by {owners[0]}; that package must rename all but one."
    others = [c for c in claims if _normal(c.distribution) != BUILT_IN]
    names = sorted({repr(_qualified(c).name) for c in others})
    if len(others) < len(claims):
        theirs = " and ".join(sorted({f"{c.distribution} {c.version}" for c in others}))
        return f"{claims[0]} is the built-in part; the one of {theirs} is named {' and '.join(names)} in a spec."
    return f"{claims[0]} is offered by {' and '.join(owners)}; name the one that you mean: {' or '.join(names)}."


def _normal(distribution: str) -> str:
    """A distribution's name as the packaging rules compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


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
            return replace(plugin, components=(), **failure_report(error, plugin.name, plugin.distribution))
    return plugin
