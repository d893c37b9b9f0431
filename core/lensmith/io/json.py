"""The one reader of JSON that Lensmith did not write just now: whole and within limits, or one line that says why not.

Python's own reader takes what is no JSON (NaN), keeps the last of doubled keys without a word, makes text of half a
surrogate pair, and answers deep nesting and long numbers with errors of its own. Here each is refused with the file,
the line and the cure, so that nothing behind it has to expect them.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lensmith.errors import DataError
from lensmith.io.kinds import HEAD, kind_of

MAX_DEPTH = 64
"""Lists and objects may lie this deep in each other: far more than data needs, far less than Python's stack."""
MAX_DIGITS = 300
"""Of an integer: any such number is a float too, and Python converts it under every setting of its own limit."""
MAX_BYTES = 1 << 32
"""Of a file that is read as a whole."""
MAX_LINE = 1 << 28
"""Bytes of one line of a JSON-lines file."""
BLANK = b"\xef\xbb\xbf \t\r\n"
"""What a line without a value may hold, a byte-order mark included."""
_SHOWN = 60


class JsonError(DataError, ValueError):
    """What is no JSON that can be used. The message is one line: `file:line: what is wrong; cure`."""

    reason = ""
    """The message without its place, where it has one."""


class NotJson(JsonError):
    """A text whose form is not that of JSON."""


@dataclass(frozen=True)
class Record:
    """One value of a file of many.

    Args:
        value: the decoded JSON.
        place: `file:line`.
    """

    value: Any
    place: str


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file. What would wait for ever, or never end, is not opened.

    Raises:
        JsonError: it is not there, no regular file, larger than `limit`, or cannot be read.
    """
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise JsonError(f"{path}: is {size:,} bytes large, more than the {limit:,} that are read; split it")
            return file.read()
        except OSError as error:
            raise JsonError(f"{path}: cannot be read ({error.strerror or error})") from error


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened for its bytes.

    Raises:
        JsonError: it is not there, cannot be opened, or is a folder, a pipe, a socket or a device.
    """
    try:
        # Without O_NONBLOCK the opening of a pipe waits for somebody to write.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise JsonError(f"{path}: does not exist; check the path") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
            reason = "not a regular file"
        named = str(path) if str(path).isprintable() else ascii(str(path))
        raise JsonError(f"{named}: cannot be opened ({reason}); name a file") from error
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise JsonError(f"{path}: is {names.get(kind, 'a device')}, not a regular file; name a file")
    return os.fdopen(handle, "rb")


def read_json(path: Path, *, nonfinite: bool = False, limit: int = MAX_BYTES) -> Any:
    """The one value that a file holds.

    Args:
        path: the file.
        nonfinite: take `NaN`, `Infinity` and numbers beyond a float's range, as Python writes them.
        limit: bytes of the largest file that is read.

    Raises:
        JsonError: with the line.
    """
    return parse_json(read_bytes(path, limit), str(path), nonfinite=nonfinite)


def read_object(path: Path, *, nonfinite: bool = False, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The one object that a file holds. Arguments as of `read_json`.

    Raises:
        JsonError: with the line; also where it is another value.
    """
    value = read_json(path, nonfinite=nonfinite, limit=limit)
    if not isinstance(value, dict):
        raise JsonError(f"{path}: holds {kind_name(value)}, where an object is needed: {{\u2026}}")
    return value


def read_lines(path: Path, *, nonfinite: bool = False) -> Iterator[Record]:
    """The values of a JSON-lines file, one a line, without its blank lines.

    Raises:
        JsonError: with the line.
    """
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if number == 1 and (kind := kind_of(line[:HEAD])):
                raise JsonError(f"{path}: is {kind.name}, not JSON lines; {kind.cure}")
            if len(line) > MAX_LINE:
                raise JsonError(f"{path}:{number}: the line has more than {MAX_LINE:,} bytes; split it")
            if line.strip(BLANK):
                yield Record(parse_json(line, str(path), line=number, nonfinite=nonfinite), f"{path}:{number}")


def parse_json(
    content: bytes | str, source: str, *, line: int | None = None, first: int = 1, nonfinite: bool = False
) -> Any:
    """The one value that a text holds.

    Args:
        content: the text, or its bytes in UTF-8.
        source: what it is called in messages; empty for nothing.
        line: of a text that is one line of a file: its number there. Places then say the column.
        first: the number of the first line of any other text.
        nonfinite: take `NaN`, `Infinity` and numbers beyond a float's range, as Python writes them.

    Raises:
        JsonError: with the line.
    """
    where = _Place(source, line, first)
    text = content if isinstance(content, str) else _decoded(content, where)
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise _diagnosed(text, where, nonfinite)
    try:
        value = (_LENIENT if nonfinite else _STRICT).decode(text.removeprefix("\ufeff"))
        if "\\u" in text and _HALVES.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        # What stands before the first fault of form may be a fault of another kind, and tells more.
        raise _diagnosed(text, where, nonfinite, (error.pos, *_syntax(text, error))) from error
    except (_Refused, UnicodeEncodeError, RecursionError) as error:
        raise _diagnosed(text, where, nonfinite) from error
    return value


def decode_text(content: bytes, source: str) -> str:
    """The text of a file's bytes, without a byte-order mark.

    Raises:
        JsonError: they are not UTF-8, with the line.
    """
    return _decoded(content, _Place(source, None, 1))


def kind_name(value: Any) -> str:
    """What a decoded value is, for messages."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)


class _Refused(Exception):
    """Something that is JSON and is not taken; where and what is worked out afterwards."""


@dataclass(frozen=True)
class _Place:
    source: str
    line: int | None
    first: int

    def told(self, text: str, position: int, found: str, cure: str) -> JsonError:
        """What was found at a position of the text: `file:line: found; cure`, of a file of lines with the column."""
        if self.line is not None:
            place, found = f"{self.source}:{self.line}", f"{found} at column {position + 1}"
        else:
            line = self.first + text.count("\n", 0, position)
            place = f"{self.source}:{line}" if self.source else f"line {line}"
        kind = NotJson if found.startswith("not valid JSON") else JsonError
        error = kind(f"{place}: {found}; {cure}")
        error.reason = f"{found}; {cure}"
        return error


def _decoded(content: bytes, where: _Place) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if kind := kind_of(content[:HEAD]):
            raise JsonError(f"{where.source or 'the text'}: is {kind.name}, not UTF-8 text; {kind.cure}") from None
        before = content[: error.start].decode("utf-8", "replace")
        found = f"not UTF-8 text: the byte 0x{content[error.start]:02x}"
        cure = "save the file as UTF-8 (iconv -f LATIN1 -t UTF-8 if it is Latin-1)"
        raise where.told(before, len(before), found, cure) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _Refused
    return made


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _Refused
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _Refused
    return value


def _constant(text: str) -> Any:
    raise _Refused


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)
_LENIENT = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)

_HALVES = re.compile(r"\\u[dD][89a-fA-F]")
_TEXT = r'"(?:[^"\\]++|\\.)*+"?'
_TEXTS = re.compile(_TEXT, re.DOTALL)
_TOKEN = re.compile(
    rf"(?P<text>{_TEXT})|(?P<number>-?\d[\d.eE+-]*+)|(?P<word>-?\w++)|(?P<mark>[\[\]{{}},:])", re.DOTALL
)
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def _depth(text: str) -> int:
    brackets = re.sub(r"[^][{}]++", "", _TEXTS.sub("", text))
    return max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _diagnosed(
    text: str, where: _Place, nonfinite: bool, fallback: tuple[int, str, str] = (0, "cannot be read", "write it again")
) -> JsonError:
    """The first thing in a text that is not taken, as an error."""
    if trouble := _first_trouble(text, nonfinite, fallback[0] or len(text)):
        return where.told(text, *trouble)
    position, found, cure = fallback
    return where.told(text, position, f"not valid JSON: {found}", cure)


def _first_trouble(text: str, nonfinite: bool, end: int) -> tuple[int, str, str] | None:
    """Where, what and the cure; None where there is nothing up to `end`."""
    keys: list[set[str] | None] = []
    fresh = False  # whether a text that comes next is a key
    for token in _TOKEN.finditer(text, 0, end):
        at, written = token.start(), token.group()
        if token["text"]:
            value, cure = _unquoted(written)
            if cure:
                return at, cure, "write the whole pair, or the character itself"
            if fresh and keys and keys[-1] is not None:
                if value in keys[-1]:
                    return at, f"the key {_short(value)} appears twice in one object", "leave one of them"
                keys[-1].add(value)
            fresh = False
        elif token["mark"]:
            if written in "[{":
                keys.append(set() if written == "{" else None)
                if len(keys) > MAX_DEPTH:
                    return at, f"values are nested more than {MAX_DEPTH} deep", "write it flatter"
            elif written in "]}" and keys:
                keys.pop()
            fresh = written in "{,"
        elif trouble := _number(written, nonfinite):
            return at, *trouble
    return None


def _unquoted(written: str) -> tuple[str, str]:
    """A text between its quotes, and what is wrong with it."""
    try:
        value = str(json.loads(written, strict=False))
        value.encode()
    except UnicodeEncodeError:
        return "", f"{_short(written.strip(chr(34)))} holds half of a surrogate pair, which is no character"
    except ValueError:
        return "", ""  # a fault of form, which is told as such
    return value, ""


def _number(written: str, nonfinite: bool) -> tuple[str, str] | None:
    if re.fullmatch(r"-?\d+", written):
        if len(written) > MAX_DIGITS:
            return f"an integer of {len(written.lstrip('-'))} digits is too long", "write it as text, in quotes"
    elif nonfinite:
        return None
    elif written in ("NaN", "Infinity", "-Infinity"):
        return f"{written} is no value of JSON", "write null, or leave the key out"
    elif re.fullmatch(r"-?\d[\d.eE+-]*", written):
        with_value = re.fullmatch(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", written)
        if with_value and float(written) in (float("inf"), float("-inf")):
            return f"{_short(written)} is larger than any number that can be held", "write a finite number"
    return None


def _short(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "\u2026").replace("\\u2026", "\u2026")


_CURES = (
    ("Expecting property name", "keys stand in double quotes, and no comma after the last"),
    ("Illegal trailing comma", "take the last comma out"),
    ("Expecting value", "write text in double quotes, a number, true, false, null, a list or an object there"),
    ("Expecting ',' delimiter", 'put a comma between values; a quote inside text is written \\"'),
    ("Expecting ':' delimiter", "put a colon between key and value"),
    ("Unterminated string", 'text ends with a double quote; a quote inside is written \\"'),
    ("Invalid control character", "a line break inside text is written \\n, a tab \\t"),
    ("Invalid \\escape", "a backslash inside text is written twice"),
    ("Invalid \\uXXXX escape", "write four hexadecimal digits behind \\u"),
)


def _syntax(text: str, error: json.JSONDecodeError) -> tuple[str, str]:
    """What is wrong with a text's form, and the cure."""
    if not text.strip("\ufeff \t\r\n\0"):
        return "it is empty", "write a value, or fetch the file again"
    if kind := kind_of(text[:HEAD].encode("utf-8", "replace")):
        return f"it is {kind.name}", kind.cure
    if error.msg.startswith("Extra data"):
        return "something follows the value", "a JSON file holds one value; of JSON lines each has a line of its own"
    cure = next((cure for beginning, cure in _CURES if error.msg.startswith(beginning)), "write it as JSON")
    return error.msg.removesuffix(" at"), cure
