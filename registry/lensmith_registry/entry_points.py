"""Entry points of one group, without parsing the metadata of distributions that have none.

`importlib.metadata.entry_points` parses every entry point of every distribution, and a look at an entry point's
distribution all of its metadata, which takes longer than everything else where hundreds are installed.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator


def installed_entry_points(group: str) -> Iterator[tuple[importlib.metadata.EntryPoint, str, str]]:
    """Every entry point of a group, with the name and version of its distribution.

    Of two distributions with one name, the first on `sys.path` counts, as for an import.
    """
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        if f"[{group}]" not in _text(distribution, "entry_points.txt"):
            continue
        name, version = name_and_version(distribution)
        key = name.lower().replace("_", "-").replace(".", "-")
        if name and (key in seen or _hidden(distribution, name)):
            continue
        seen.add(key)
        for entry_point in _of_group(distribution, group):
            yield entry_point, name or "an unknown package", version


def _of_group(distribution: importlib.metadata.Distribution, group: str) -> list[importlib.metadata.EntryPoint]:
    """The entry points of one group; a malformed line is one whose value nothing can be imported from."""
    try:
        return list(distribution.entry_points.select(group=group))
    except Exception:  # what the library raises for a malformed line differs from one Python to the next
        found, inside = [], False
        for line in map(str.strip, _text(distribution, "entry_points.txt").splitlines()):
            if line.startswith("["):
                inside = line == f"[{group}]"
            elif inside and line and not line.startswith(("#", ";")):
                name, _, value = line.partition("=")
                found.append(importlib.metadata.EntryPoint(name.strip() or line, value.strip() or line, group))
        return found


def name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Both from the head of the metadata, whose body (a README) is long; empty for a half-removed distribution."""
    text = _text(distribution, "METADATA") or _text(distribution, "PKG-INFO")
    found = {"name": "", "version": ""}
    for line in text.splitlines():
        if not line:
            break
        field, _, value = line.partition(":")
        field = field.lower()
        if not found.get(field, "set"):
            found[field] = value.strip()
            if all(found.values()):
                break
    return found["name"], found["version"]


def _hidden(distribution: importlib.metadata.Distribution, name: str) -> bool:
    """Whether another distribution of the same name comes before this one on the path."""
    try:
        first = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False  # its folder has another name than its metadata
    return str(first.locate_file("")) != str(distribution.locate_file(""))


def _text(distribution: importlib.metadata.Distribution, file: str) -> str:
    try:
        return distribution.read_text(file) or ""
    except UnicodeDecodeError:  # somebody's damaged file is not our user's problem
        return ""
