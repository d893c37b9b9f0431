"""Where each row of a file lies: found in one pass over its bytes, without decoding anything."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lensmith.data.columns import column
from lensmith.errors import DataError
from lensmith.io.json import JsonError, NotJson, open_regular, parse_json
from lensmith.io.kinds import HEAD, kind_of

PLACE = np.dtype([("start", "<u8"), ("size", "<u4"), ("line", "<u4")])
"""First byte, number of bytes and, in JSON lines, the line; lines are counted from 1, and 0 in a list."""
BLANK = b"\xef\xbb\xbf \t\r\n"
"""What a line without a row may hold, a byte-order mark included."""

_QUOTE, _ESCAPE, _COMMA, _OPEN, _CLOSE = b'"\\,[]'
_STEP = 1 << 22
_LONGEST = 1 << 26
"""Bytes of what may be one row, or the rest of a file behind a quote too many."""
_NOTHING = "Expecting value: nothing stands behind a comma; take the comma out"
_STRUCTURE = np.zeros(256, dtype=bool)
_STRUCTURE[list(b'"\\{}[],')] = True
_DEPTH = np.zeros(256, dtype=np.int8)
_DEPTH[list(b"{[")], _DEPTH[list(b"}]")] = 1, -1

Places = NDArray[np.void]


def is_list(file: Path) -> bool:
    """Whether a file holds a JSON list of rows rather than JSON lines.

    Raises:
        DataError: it is not there, or holds nothing.
    """
    try:
        opened = open_regular(file)
    except JsonError as error:
        if not file.exists():
            raise DataError(f"{file} does not exist; `path` names a JSON or JSON-lines file of rows") from None
        raise DataError(f"{error}: `path` names a JSON or JSON-lines file of rows") from None
    with opened:
        if kind := kind_of(opened.read(HEAD)):
            raise DataError(f"{file}: is {kind.name}, not a file of rows (a JSON list, or JSON lines); {kind.cure}")
        opened.seek(0)
        while block := opened.read(1 << 16):
            if head := block.lstrip(BLANK):
                return head.startswith(b"[")
    raise DataError(f"{file} is empty; it must hold rows")


def places(file: Path, *, listed: bool) -> Places:
    """Places of all rows, of type `PLACE`. The elements of a list are JSON when they are given one.

    Raises:
        DataError: a list that is not JSON, with the line.
    """
    return column(file, "rows", lambda: _of_list(file) if listed else _of_lines(file))


def _of_lines(file: Path) -> Places:
    found: list[NDArray[np.void]] = []
    entries: list[tuple[int, int, int]] = []
    offset = 0
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if line.strip(BLANK):
                entries.append((offset, len(line), number))
            if len(entries) == 1 << 16:
                found.append(np.array(entries, dtype=PLACE))
                entries.clear()
            offset += len(line)
    return np.concatenate([*found, np.array(entries, dtype=PLACE)])


def _of_list(file: Path) -> Places:
    """Elements of the outermost list: what lies between its brackets and its own commas."""
    with file.open("rb") as opened:
        borders = _borders(file, opened)
        made = np.zeros(len(borders) - 1, dtype=PLACE)
        made["start"] = borders[:-1] + 1
        made["size"] = np.diff(borders) - 1
        if len(made) == 1:
            opened.seek(int(made["start"][0]))
            if not opened.read(int(made["size"][0])).strip(BLANK):
                return made[:0]
        for start, size, _ in made.tolist():
            opened.seek(start)
            text = opened.read(size)
            try:
                json.loads(text.decode("utf-8-sig"))
            except (json.JSONDecodeError, UnicodeDecodeError):
                if not text.strip(BLANK):
                    raise DataError(_told(file, start + size, _NOTHING)) from None
                decoded(file, text, start)
            except (ValueError, RecursionError):
                pass  # a number or a depth that is refused when this row is read
    return made


def require_lines(file: Path, places: Places) -> None:
    """Refuse a file that holds one object over several lines, or objects over several lines each.

    Raises:
        DataError: it does; what it holds and the cure.
    """
    with file.open("rb") as opened:
        first = opened.read(int(places[0]["start"] + places[0]["size"]))[int(places[0]["start"]) :]
        rest = opened.read(_STEP) if len(places) > 1 else b""
    text = first.decode("utf-8-sig", "replace").rstrip()
    try:
        value = parse_json(text, str(file))
    except NotJson:
        if not text.startswith("{") or text[-1:] not in "{[,:" or rest.lstrip(BLANK).startswith(b"{"):
            return  # a line that is no JSON is met when its row is read
        raise DataError(f"{file}: {_over_lines(file)}") from None
    except JsonError:
        return
    if len(places) > 1 or not isinstance(value, dict) or {"conversations", "messages"} & value.keys():
        return
    if told := _holds(value):
        raise DataError(f"{file}: {told}")


def _over_lines(file: Path) -> str:
    if file.stat().st_size <= _LONGEST:
        try:
            value = parse_json(file.read_bytes(), str(file))
        except JsonError:
            value = None
        if isinstance(value, dict):
            if {"conversations", "messages"} & value.keys():
                return "holds one row over several lines; put it into a list, [ … ], or write it in one line"
            if told := _holds(value):
                return told
    return "has objects over several lines; write each in a line of its own (jq -c .), or all as a list, [ … ]"


def _holds(value: dict[str, Any]) -> str:
    """What an object holds that may be the rows; empty where there is nothing."""
    for key, inner in value.items():
        if isinstance(inner, list) and inner and all(isinstance(item, dict) for item in inner[:10]):
            name = key if len(key) < 40 else key[:40] + "…"
            told = f"holds one object, with {len(inner):,} objects in its `{name}`; rows are a list by themselves"
            return f"{told}: write that alone (jq '.[\"{name}\"]' FILE > rows.json)"
    inner = list(value.values())
    if inner and all(isinstance(item, dict) and {"conversations", "messages"} & item.keys() for item in inner):
        return f"holds one object of {len(inner):,} rows by name; rows are a list: write its values (jq '[.[]]' FILE)"
    return ""


def decoded(file: Path, text: bytes, start: int, line: int | None = None) -> Any:
    """A row from its bytes.

    Args:
        file: where they are from.
        text: the bytes.
        start: offset of the first.
        line: its line, where that is known.

    Raises:
        JsonError: they are not JSON that can be used, with the line.
    """
    try:
        return parse_json(text, str(file), line=line)
    except JsonError:
        if line is not None:
            raise
        return parse_json(text, str(file), first=line_of(file, start))


def _borders(file: Path, opened: IO[bytes]) -> NDArray[np.int64]:
    """Offsets of the opening bracket, the commas between elements and the closing bracket."""
    found: list[NDArray[np.int64]] = []
    offset, depth, inside, ended = 0, 0, False, False
    while block := opened.read(_STEP):
        while block.endswith(b"\\") and (more := opened.read(1)):
            block += more  # what it escapes belongs to the same block
        data = np.frombuffer(block, dtype=np.uint8)
        if ended:
            _nothing_after(file, block, offset)
            offset += len(block)
            continue
        at = np.flatnonzero(_STRUCTURE[data])
        kinds = data[at]
        _ignore_escaped_quotes(at, kinds)
        quotes = np.cumsum(kinds == _QUOTE) + inside
        outside = (quotes % 2 == 0) & (kinds != _QUOTE)
        inside = bool(quotes[-1] % 2) if len(quotes) else inside
        at, kinds = at[outside], kinds[outside]
        depths = np.cumsum(_DEPTH[kinds], dtype=np.int64) + depth
        depth = int(depths[-1]) if len(depths) else depth
        begins = (depths == 1) & (kinds == _OPEN) if not found else np.zeros(len(at), dtype=bool)
        ends = depths == 0
        borders = at[begins | ends | ((depths == 1) & (kinds == _COMMA))].astype(np.int64) + offset
        if len(at):
            found.append(borders)
        if ends.any():
            ended = True
            last = int(np.argmax(ends))
            end = int(at[last])
            if kinds[last] != _CLOSE or len(at) > last + 1:
                before = np.concatenate(found)
                stop = offset + end + int(kinds[last] != _CLOSE)
                _blame(file, opened, [*before[before < offset + end].tolist(), stop])
                place = offset + int(at[min(last + 1, len(at) - 1)])
                raise DataError(_told(file, place, "brackets do not match, or there is more than one list"))
            _nothing_after(file, block[end + 1 :], offset + end + 1)
        offset += len(block)
    if not ended:
        _blame(file, opened, [*np.concatenate(found).tolist(), offset])
        raise DataError(_told(file, offset, "the list does not end"))
    return np.concatenate(found)


def _blame(file: Path, opened: IO[bytes], borders: list[int]) -> None:
    """Find the first row that is not JSON in a list that does not end where it should.

    Raises:
        DataError: there is one, with its line.
    """
    for before, end in pairwise(borders):
        if end - before <= _LONGEST:
            opened.seek(before + 1)
            decoded(file, opened.read(end - before - 1), before + 1)


def _ignore_escaped_quotes(at: NDArray[np.int64], kinds: NDArray[np.uint8]) -> None:
    """Take quotes behind an odd number of backslashes out of `kinds`."""
    slashes = at[kinds == _ESCAPE]
    if not len(slashes):
        return
    breaks = np.flatnonzero(np.diff(slashes) != 1)
    firsts = slashes[np.concatenate([[0], breaks + 1])]
    lasts = slashes[np.concatenate([breaks, [len(slashes) - 1]])]
    escaped = lasts[(lasts - firsts) % 2 == 0] + 1
    where = np.searchsorted(at, escaped)
    where = where[where < len(at)]
    where = where[np.isin(at[where], escaped)]
    kinds[where] = _COMMA  # inside a text, where a comma says nothing


def _nothing_after(file: Path, rest: bytes, offset: int) -> None:
    if left := rest.lstrip(BLANK):
        raise DataError(_told(file, offset + len(rest) - len(left), "something follows the list"))


def _told(file: Path, offset: int, what: str) -> str:
    return f"{file}:{line_of(file, offset)}: not valid JSON: {what}"


def line_of(file: Path, offset: int) -> int:
    """The line in which a byte lies, counted from 1."""
    line = 1
    with file.open("rb") as opened:
        while offset > 0 and (block := opened.read(min(offset, 1 << 20))):
            line += block.count(b"\n")
            offset -= len(block)
    return line
