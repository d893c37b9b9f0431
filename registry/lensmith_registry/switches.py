"""The environment variables by which a user looks at plugins and leaves some out."""

from __future__ import annotations

import difflib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import pluggy

from lensmith_registry import hooks
from lensmith_registry.errors import RegistryError

TRACE = "LENSMITH_TRACE_PLUGINS"
"""Set to anything but 0: every call of a hook is printed on standard error."""
DISABLE = "LENSMITH_DISABLE_PLUGINS"
"""Names of plugins or of their distributions, separated by commas, that are not imported."""


def disabled_names(plugins: Sequence[tuple[str, str]]) -> set[str]:
    """What `LENSMITH_DISABLE_PLUGINS` names.

    Args:
        plugins: name and distribution of every plugin that is installed.

    Raises:
        RegistryError: it names something else; with what there is.
    """
    asked = {name.strip() for name in os.environ.get(DISABLE, "").split(",") if name.strip()}
    known = {name for plugin in plugins for name in plugin}
    for name in sorted(asked - known):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        there = "; ".join(
            f"{distribution} ({', '.join(sorted(n for n, d in plugins if d == distribution))})"
            for distribution in sorted({d for _, d in plugins})
        )
        raise RegistryError(
            f"{DISABLE} names {name!r}, which is neither an installed plugin nor a distribution of one.{hint}"
            f" Distributions and their plugins: {there or 'none'}."
        )
    return asked


def trace(line: str) -> None:
    """Print a line on standard error where `LENSMITH_TRACE_PLUGINS` asks for it."""
    if _traced():
        print(line, file=sys.stderr)


def _traced() -> bool:
    return os.environ.get(TRACE, "0") not in ("", "0")


@contextmanager
def hook_manager(owner: str) -> Iterator[pluggy.PluginManager]:
    """A manager that knows our hooks, for one plugin; watched where `LENSMITH_TRACE_PLUGINS` says so.

    Args:
        owner: distribution and version of the plugin, for what is printed.
    """
    manager = _spare.pop() if _spare else _new_manager()
    unwatch = _watch(manager, owner) if _traced() else None
    try:
        yield manager
        for plugin in manager.get_plugins():
            manager.unregister(plugin)
        _spare.append(manager)  # after an error it may know half a plugin, and is not used again
    finally:
        if unwatch is not None:
            unwatch()


_spare: list[pluggy.PluginManager] = []
"""Making a manager takes longer than all else that is done for a plugin."""


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    return manager


def _watch(manager: pluggy.PluginManager, owner: str) -> Callable[[], None]:
    started: list[float] = []

    def before(hook_name: str, hook_impls: Sequence[pluggy.HookImpl], kwargs: Mapping[str, Any]) -> None:
        started.append(time.perf_counter())

    def after(
        outcome: pluggy.Result[Any], hook_name: str, hook_impls: Sequence[pluggy.HookImpl], kwargs: Mapping[str, Any]
    ) -> None:
        took = 1000 * (time.perf_counter() - started.pop())
        arguments = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
        if outcome.exception is not None:
            result = f"raised {type(outcome.exception).__name__}: {outcome.exception}"
        else:
            result = _told(outcome.get_result())
        for implementation in hook_impls:
            module = getattr(implementation.plugin, "__name__", implementation.plugin)
            print(
                f"hook {hook_name}({arguments}) of {implementation.plugin_name} ({module}, {owner}):"
                f" {result}, {took:.1f} ms",
                file=sys.stderr,
            )

    return manager.add_hookcall_monitoring(before, after)


def _told(results: Sequence[Any]) -> str:
    """What a hook returned, in short: the implementations of one plugin are at most one."""
    if not results:
        return "None"
    (offered,) = results
    if isinstance(offered, Sized) and not isinstance(offered, str):
        return f"{len(offered)} returned" + (f" ({', '.join(map(str, offered))})" if offered else "")  # type: ignore[call-overload]
    return repr(offered)
