"""Plugins of one file that the environment names: to try a part before it is a package."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from lensmith_registry.errors import RegistryError

FILES = "LENSMITH_PLUGIN_FILES"
"""Python files, separated as in PATH, that are loaded as plugins. A spec cannot name them: it is data, not code."""


def named_files() -> list[Path]:
    """The files that `LENSMITH_PLUGIN_FILES` names, as absolute paths, which processes started from here find too.

    Raises:
        RegistryError: one is not there or not a Python file, or two have the same name.
    """
    files = [Path(text).absolute() for text in os.environ.get(FILES, "").split(os.pathsep) if text.strip()]
    for file in files:
        if not file.is_file() or file.suffix != ".py" or not file.stem.isidentifier():
            what = "is not a Python module (NAME.py)" if file.is_file() else "does not exist"
            raise RegistryError(f"{FILES}: {file} {what}")
    stems = [file.stem for file in files]
    if twice := next((file for file in files if stems.count(file.stem) > 1), None):
        raise RegistryError(f"{FILES} names two files called {twice.name}; rename one of them")
    if files:
        os.environ[FILES] = os.pathsep.join(map(str, files))
    return files


def version_of(file: Path) -> str:
    """A version that changes with the file, so that artifacts and checkpoints tell which one they are of."""
    import hashlib

    return f"0+{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


def installation(distribution: str, version: str) -> str:
    """What brings a plugin here: pip, or for a single file the environment."""
    if distribution.endswith(".py"):
        return f"name the file in the environment variable {FILES}"
    return f"pip install {distribution}=={version}"


def load_file(file: Path) -> ModuleType:
    """Import a file as the module of its name, under which its records name what they build.

    Raises:
        RegistryError: the name is another module's.
        Exception: what its code raises.
    """
    name = file.stem
    loaded = sys.modules.get(name)
    if loaded is not None and _is_file(getattr(loaded, "__file__", None), file):
        return loaded
    found = None if loaded is not None else importlib.util.find_spec(name)
    if loaded is not None or (found is not None and not _is_file(found.origin, file)):
        raise RegistryError(f"{file.name}: {name!r} is the name of another module; give the file a name of its own")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_file(path: str | None, file: Path) -> bool:
    return path is not None and Path(path).absolute() == file
