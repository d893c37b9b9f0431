"""Read spec files strictly: YAML 1.2 scalars, no duplicate keys, no code, bounded aliases, a line for every value."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lensmith.checkpoints import LocatedStr
from lensmith.errors import Problem, SpecError
from lensmith.io.json import JsonError, decode_text, parse_json, read_bytes

SpecKeys = tuple[str | int, ...]
"""Keys and list positions from the root of a spec to a value."""

MAX_NODES = 100_000
"""A spec with more values than this, aliases expanded, is refused: it is an alias bomb or not a spec."""

MAX_DEPTH = 64
"""Values may be nested this deep, far more than any spec needs and far less than Python's stack."""


_MAX_TEXT = 4_000_000


@dataclass
class Document:
    """A parsed file: its data, the line of every value, and what overrides put in its place."""

    data: Any
    source: str
    lines: dict[SpecKeys, int] = field(default_factory=dict)
    overridden: dict[SpecKeys, str] = field(default_factory=dict)
    _known_mappings: dict[int, tuple[int, set[SpecKeys]]] = field(default_factory=dict, repr=False, compare=False)

    def exact_place(self, path: SpecKeys) -> str:
        """The override that set a path, else its `file:line`; empty where this document does not hold it."""
        if path in self.overridden:
            return self.overridden[path]
        return f"{self.source}:{self.lines[path]}" if path in self.lines else ""

    def reach(self, path: SpecKeys) -> tuple[int, bool]:
        """How much of a path this document holds, and whether it settles the value there.

        It does where it holds all of the path, or on the way to it anything but a mapping: only mappings are merged.
        """
        longest = 0
        for held in (self.overridden, self.lines):
            for length in range(len(path), 0, -1):
                start = path[:length]
                if start not in held:
                    continue
                if length == len(path) or start not in self._mappings(held):
                    return length, True
                longest = max(longest, length)
                break
        return longest, False

    def _mappings(self, held: dict[SpecKeys, Any]) -> set[SpecKeys]:
        """Paths below which `held` has a key, looked through once."""
        known = self._known_mappings.get(id(held))
        if known is None or known[0] != len(held):
            known = len(held), {path[:-1] for path in held if path and isinstance(path[-1], str)}
            self._known_mappings[id(held)] = known
        return known[1]

    def place(self, path: SpecKeys) -> str:
        """Place of a path, or of the nearest parent that is here."""
        for length in range(len(path), -1, -1):
            if place := self.exact_place(path[:length]):
                return place
        return self.source


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema: `1e-3` is a number, `off` and `12:30` are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own
    _composed = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """PyYAML's, which ends where a file holds too much, instead of after all of it."""
        self._composed += 1
        if self._composed > MAX_NODES:
            text = f"holds more than {MAX_NODES} keys and values"
            raise yaml.composer.ComposerError(problem=text, problem_mark=self.get_mark())
        return super().compose_node(parent, index)


_CORE_SCHEMA = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)
_PLAIN_KINDS = ("null", "bool", "int", "float")
_TOO_DEEP = f"values are nested more than {MAX_DEPTH} deep"
_MAX_DIGITS = 640  # what Python converts under any setting of its own limit

for _tag, _pattern, _first in _CORE_SCHEMA:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), [c if c != "\0" else "" for c in _first])


def read_document(path: Path) -> Document:
    """Read a spec file by its suffix: `.yaml`/`.yml`, `.json` or `.toml`.

    Raises:
        SpecError: the file is missing, is not what its suffix says, repeats a key or is too large; with the line.
    """
    if not os.path.lexists(path):
        raise SpecError([Problem("", f"{path} does not exist; give the path of a spec file")])
    try:
        text = decode_text(read_bytes(path, 4 * _MAX_TEXT), str(path))
    except JsonError as error:  # a folder or a pipe, no permission, not UTF-8, a NUL in the name
        raise SpecError([Problem("", str(error))]) from error
    if len(text) > _MAX_TEXT:
        raise SpecError([Problem("", f"{path} holds {len(text):,} characters, more than a spec's {_MAX_TEXT:,}")])
    base = path.absolute().parent
    if path.suffix == ".json":
        data = _locate(_json(text, path), base, str(path))
        return Document(data, str(path), _lines_of_json(text, base))
    if path.suffix == ".toml":
        return Document(_locate(_toml(text, path), base, str(path)), str(path))
    return parse_yaml(text, source=str(path), base=base)


def parse_yaml(text: str, *, source: str, base: Path) -> Document:
    """Parse one YAML document.

    Args:
        text: the document.
        source: what to call it in messages.
        base: the folder that relative paths in it start from.

    Raises:
        SpecError: with the line.
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not valid YAML: the character {chr(error.character)!r} is not allowed"
        raise SpecError([Problem("", message, f"{source}:{line}")]) from error
    try:
        node = loader.get_single_node()
        document = Document(None, source)
        if node is not None:
            document.data = _Builder(loader, document, base).build(node, ())
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        message = ", ".join(filter(None, (error.context, error.problem)))
        raise SpecError([Problem("", f"not valid YAML: {message}", place)]) from error
    except (ValueError, OverflowError) as error:
        message = "not valid YAML: an escape names no character"
        raise SpecError([Problem("", message, f"{source}:{loader.line + 1}")]) from error
    except RecursionError:
        raise SpecError([Problem("", _TOO_DEEP, source)]) from None
    finally:
        loader.dispose()


def parse_scalar(text: str) -> Any:
    """The value of a command-line override, read as YAML (`1e-4`, `true`, `[1, 2]`, `{name: mlp}`, `text`)."""
    return parse_yaml(text, source=f"override {text!r}", base=Path.cwd()).data


class _Builder:
    """Turns nodes into plain data, noting lines and counting what aliases expand to."""

    def __init__(self, loader: _Loader, document: Document, base: Path) -> None:
        self.loader, self.document, self.base = loader, document, base
        self.count = 0
        self.open: set[int] = set()

    def fail(self, node: yaml.Node, message: str) -> SpecError:
        return SpecError([Problem("", message, f"{self.document.source}:{node.start_mark.line + 1}")])

    def build(self, node: yaml.Node, path: SpecKeys) -> Any:
        self.count += 1
        if self.count > MAX_NODES:
            raise self.fail(node, f"holds more than {MAX_NODES} values once its aliases are expanded")
        if len(path) > MAX_DEPTH:
            raise self.fail(node, _TOO_DEEP)
        if id(node) in self.open:
            raise self.fail(node, "an alias refers to the value that contains it")
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                self.require_tag(node, "tag:yaml.org,2002:map")
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                self.require_tag(node, "tag:yaml.org,2002:seq")
                return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode)
            return self.scalar(node)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, path: SpecKeys) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise self.fail(key_node, "merge keys (<<) are not supported; use `extends:`")
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.fail(key_node, "a list or mapping cannot be a key")
            key = self.scalar(key_node)
            if not isinstance(key, str):
                raise self.fail(key_node, f"the key {key_node.value!r} is not text; put it in quotes")
            below = (*path, str(key))
            if key in result:
                first = self.document.lines[below]
                raise self.fail(key_node, f"the key {key!r} appears twice; it stands in line {first} already")
            self.document.lines[below] = key_node.start_mark.line + 1
            result[str(key)] = self.build(value_node, below)
        return result

    def require_tag(self, node: yaml.Node, tag: str) -> None:
        if node.tag != tag:
            raise self.fail(node, _unsupported(node.tag))

    def scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        text = node.value
        if kind in ("str", "merge"):  # `<<` that is no key is text
            if not _is_unicode(text):
                raise self.fail(node, f"{text!r} is not text: half of a surrogate pair")
            return LocatedStr(text, self.base)
        # An explicit tag says nothing about the text behind it: `!!int five`.
        if kind in _PLAIN_KINDS and self.loader.resolve(yaml.ScalarNode, text, (True, False)) != node.tag:  # type: ignore[no-untyped-call]
            raise self.fail(node, f"{text!r} does not read as {kind}")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            if len(text) > _MAX_DIGITS:
                raise self.fail(node, f"a number of {len(text)} digits is too long")
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        raise self.fail(node, _unsupported(node.tag))


def _unsupported(tag: str) -> str:
    written = tag.replace("tag:yaml.org,2002:", "!!")
    return f"the tag {written} is not supported; a spec holds text, numbers, lists and mappings"


def _json(text: str, path: Path) -> Any:
    try:
        return parse_json(text, str(path))
    except JsonError as error:
        raise SpecError([Problem("", str(error))]) from error


def _lines_of_json(text: str, base: Path) -> dict[SpecKeys, int]:
    """Lines of a JSON document, which nearly always is YAML too; none where it is not (tabs)."""
    try:
        return parse_yaml(text, source="", base=base).lines
    except SpecError:
        return {}


def _toml(text: str, path: Path) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise SpecError([Problem("", f"not valid TOML: {error}", str(path))]) from error
    except RecursionError:
        raise SpecError([Problem("", _TOO_DEEP, str(path))]) from None


def _locate(value: Any, base: Path, source: str, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise SpecError([Problem("", _TOO_DEEP, source)])
    if isinstance(value, str):
        if not _is_unicode(value):
            raise SpecError([Problem("", f"{value!r} is not text: half of a surrogate pair", source)])
        return LocatedStr(value, base)
    if isinstance(value, int) and abs(value) >= 10**_MAX_DIGITS:
        raise SpecError([Problem("", f"a number of more than {_MAX_DIGITS} digits is too long", source)])
    if isinstance(value, list):
        return [_locate(child, base, source, depth + 1) for child in value]
    if isinstance(value, dict):
        for key in value:
            _locate(key, base, source)
        return {key: _locate(child, base, source, depth + 1) for key, child in value.items()}
    return value


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
