"""The hooks that a Lensmith plugin may implement. This file is their table of contents."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pluggy

from lensmith_registry.component import Component
from lensmith_registry.probe import Probe

PROJECT = "lensmith"
ENTRY_POINT_GROUP = "lensmith"
API_VERSION = 1
"""A plugin module says which interface it was written for: `api_version = 1`."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def lensmith_components() -> Iterable[Component]:  # type: ignore[empty-body]
    """Return the parts that this plugin offers, of any kind.

    Called while commands start, so the module that holds it may import pydantic and `lensmith`, never torch.
    """


@hookspec
def lensmith_probes() -> Iterable[Probe]:  # type: ignore[empty-body]
    """Return what `lensmith doctor` should see of the libraries that this plugin builds on.

    Called while commands start, like `lensmith_components`; what the probes name is imported when they run.
    """


@hookspec
def lensmith_recipes() -> Iterable[Path]:  # type: ignore[empty-body]
    """Return folders of spec files (`NAME.yaml`) that a spec may name in `extends: NAME`.

    Called when a spec extends a name; the folders must exist and are only read.
    """
