"""The first images that a file of rows names, looked for by `lensmith check`: a wrong folder is found at once.

Only the beginning of the file is read, without an index and without numpy; what is wrong with its rows is told by
`lensmith data check`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensmith.io.json import JsonError, open_regular

COUNT = 100
_BYTES = 4 << 20


def missing_images(rows: Path, root: Path, *, all_of_them: bool = False) -> str:
    """What is wrong with the folder where the first images are not below it; empty where they are.

    Args:
        rows: the file.
        root: the folder that its paths start from.
        all_of_them: tell it only where none is there (rows without theirs are left out).
    """
    try:
        with open_regular(rows) as file:
            text = file.read(_BYTES).decode("utf-8-sig", "replace")
    except (JsonError, OSError):
        return ""  # told elsewhere
    names = list(dict.fromkeys(name for row in _beginning(text) for name in _named(row)))[:COUNT]
    gone = [name for name in names if not _there(root, name)]
    if not gone or (all_of_them and len(gone) < len(names)):
        return ""
    counted = f"none of the first {len(names)} pictures" if len(gone) == len(names) else f"{len(gone)} of them are not"
    if len(gone) == len(names):
        told = f"{counted} of {rows} is there, {gone[0]} first"
    else:
        told = f"of the first {len(names)} pictures of {rows}, {counted} there, {gone[0]} first"
    return f"{root}: {told}; `images` names the folder that the rows' paths start from"


def _beginning(text: str) -> Iterator[Any]:
    """Values of a list, or of lines, as far as they are whole."""
    decoder = json.JSONDecoder()
    place = len(text) - len(text.lstrip())
    place += text[place : place + 1] == "["
    for _ in range(10 * COUNT):
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return
        yield value


def _named(row: Any) -> list[str]:
    """Paths that a row names; none where it names its images otherwise."""
    value = (row.get("image") or row.get("images")) if isinstance(row, dict) else None
    values = value if isinstance(value, list) else [value]
    return [name for name in values if isinstance(name, str) and 0 < len(name) < 1024 and ":" not in name[:10]]


def _there(root: Path, name: str) -> bool:
    try:
        return os.path.isfile(os.path.join(root, name))  # noqa: PTH113, PTH118 - pathlib raises on names too long
    except ValueError:
        return False
