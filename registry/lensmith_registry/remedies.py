"""What the user of a plugin that fails can do about it."""

from __future__ import annotations

import traceback
from typing import Any

from lensmith_registry.errors import RegistryError
from lensmith_registry.files import FILES
from lensmith_registry.switches import DISABLE


def remedy(error: BaseException, plugin: str, distribution: str) -> str:
    """One or two sentences: how to make the plugin work, and how to go on without it.

    Args:
        error: what its import or registration raised.
        plugin, distribution: its names.
    """
    if distribution == f"{plugin}.py":
        return f"Mend the file, or take it out of {FILES}."
    if isinstance(error, ModuleNotFoundError) and error.name:
        first = f"Install the package that provides {error.name.split('.')[0]!r}, or another version of {distribution}"
    elif isinstance(error, RegistryError):
        first = f"Install another version: `pip install --upgrade {distribution} lensmith`"
    else:
        first = f"Install another version of {distribution}"
    return (
        f"{first}; if none works, send its authors this report. To go on without it: `pip uninstall {distribution}`,"
        f" or {DISABLE}={plugin} in the environment."
    )


def failure_report(error: BaseException, plugin: str, distribution: str) -> dict[str, Any]:
    """What `Plugin` says of one that failed: `error`, `details` (the traceback) and `remedy`."""
    message = str(error) if isinstance(error, RegistryError) else f"{type(error).__name__}: {error}"
    details = "".join(traceback.format_exception(error))
    return {"error": message, "details": details, "remedy": remedy(error, plugin, distribution)}
