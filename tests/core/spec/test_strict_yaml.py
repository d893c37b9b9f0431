"""YAML as a spec wants it: the scalars of YAML 1.2's core schema, every doubt an error with its line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lensmith import SpecError
from lensmith.spec.yaml import MAX_DEPTH, MAX_NODES, parse_yaml


def parse(text: str) -> Any:
    return parse_yaml(text, source="s.yaml", base=Path("/specs")).data


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse(text)
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("+1.5e+3", 1500.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("12", 12),
        ("-12", -12),
        ("+12", 12),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("!!str 12", "12"),
        ("!!int 12", 12),
        ("!!float 1.5", 1.5),
        ("'12'", "12"),
        ('"true"', "true"),
        ("[1, a]", [1, "a"]),
        ("{a: 1}", {"a": 1}),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_values(written: str, value: object) -> None:
    found = parse(f"key: {written}")["key"]
    assert found == value
    assert type(found) is type(value) or isinstance(value, str)


@pytest.mark.parametrize(
    "written",
    [
        *("off", "on", "yes", "No", "y", "nULL", "tRUE", "inf", "nan", "<<", "=", "."),
        *("12:30", "1_000", "0b11", "-0x1F", "0o8", "1e", "e3", "0777a", "１２", "2020-01-01", "1.2.3", "v1.5"),
        *("lmsys/vicuna-7b", "é", "日本", "😀"),
    ],
)
def test_what_older_yaml_would_turn_into_something_else_is_text(written: str) -> None:
    assert parse(f"key: {written}") == {"key": written}


def test_not_a_number() -> None:
    assert math.isnan(parse("key: .nan")["key"])


@pytest.mark.parametrize("text", ["", "\n\n", "# a comment\n", "---\n", "\ufeff"])
def test_an_empty_document_holds_nothing(text: str) -> None:
    assert parse(text) is None


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert parse("\ufeffmodel: 1") == {"model": 1}


def test_aliases_are_copied_not_shared() -> None:
    data = parse("a: &data {x: [1]}\nb: *data\n")
    assert data["b"] == {"x": [1]}
    assert data["a"] is not data["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "s.yaml:3: the key 'a' appears twice; it stands in line 1 already"),
        ("x:\n  {a: 1,\n   a: 2}", "s.yaml:3: the key 'a' appears twice; it stands in line 2 already"),
        ("'a': 1\n\"a\": 1", "s.yaml:2: the key 'a' appears twice; it stands in line 1 already"),
        ("x: &x {b: 1}\ny:\n  <<: *x", "s.yaml:3: merge keys (<<) are not supported; use `extends:`"),
        ("a: &a [*a]", "s.yaml:1: an alias refers to the value that contains it"),
        ("a: &a\n  b: {c: *a}", "s.yaml:1: an alias refers to the value that contains it"),
        ("a: 1\nb: *c", "s.yaml:2: not valid YAML: found undefined alias 'c'"),
        ("a: !!python/object:os.system {}", "s.yaml:1: the tag !!python/object:os.system is not supported"),
        ("a: !!python/object/apply:os.system [ls]", "the tag !!python/object/apply:os.system is not supported"),
        ("a: !!python/tuple [1]", "the tag !!python/tuple is not supported"),
        ("a: !!python/name:os.system ''", "the tag !!python/name:os.system is not supported"),
        ("!!python/object/new:os.system [ls]", "the tag !!python/object/new:os.system is not supported"),
        ("a: !mine 1", "s.yaml:1: the tag !mine is not supported; a spec holds text, numbers, lists and mappings"),
        ("a: !!set {b}", "the tag !!set is not supported"),
        ("a: !!omap [b: 1]", "the tag !!omap is not supported"),
        ("a: !!binary aGk=", "the tag !!binary is not supported"),
        ("a: !!timestamp 2020-01-01", "the tag !!timestamp is not supported"),
        ("a: !!int five", "s.yaml:1: 'five' does not read as int"),
        ("a: !!bool off", "s.yaml:1: 'off' does not read as bool"),
        ("a: !!float x", "s.yaml:1: 'x' does not read as float"),
        ("a: !!null x", "s.yaml:1: 'x' does not read as null"),
        ("a: !!map 1", "is not supported"),
        ("a: 1\n2: b", "s.yaml:2: the key '2' is not text; put it in quotes"),
        ("true: b", "the key 'true' is not text"),
        ("~: b", "the key '~' is not text"),
        ("? [a]\n: b", "s.yaml:1: a list or mapping cannot be a key"),
        ("{a: 1}: b", "a list or mapping cannot be a key"),
        ("a:\n\tb: 1", "s.yaml:2: not valid YAML: while scanning for the next token, found character '\\t'"),
        ("a: b: c", "s.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("a: [1,\nb: 2", "s.yaml:2: not valid YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a: 1\n---\nb: 2", "s.yaml:2: not valid YAML: expected a single document in the stream, but found another"),
        ("a: 'b", "not valid YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("a: 1\nb: \x00", "s.yaml:2: not valid YAML: the character '\\x00' is not allowed"),
        ("a: \x1b[0m", "s.yaml:1: not valid YAML: the character '\\x1b' is not allowed"),
        ('a: "\\ud800"', "s.yaml:1: '\\ud800' is not text: half of a surrogate pair"),
        ('"\\udc00": 1', "s.yaml:1: '\\udc00' is not text: half of a surrogate pair"),
        ('a:\n  "\\UFFFFFFFF"', "s.yaml:2: not valid YAML: an escape names no character"),
        ('a: "\\U00110000"', "not valid YAML: an escape names no character"),
        ("a: " + "9" * 5000, "s.yaml:1: a number of 5000 digits is too long"),
        ("%YAML 2.0\n---\na: 1", "not valid YAML: found incompatible YAML document"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    assert message in refusal(text)


def test_an_alias_bomb_is_refused_quickly() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert refusal("\n".join(levels)).endswith(f"holds more than {MAX_NODES} values once its aliases are expanded")


def test_a_document_of_very_many_values_is_refused() -> None:
    assert "holds more than" in refusal("[" + "1," * (MAX_NODES + 1) + "]")


@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 200, 5000])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ("{a: ", "}")])
def test_a_document_that_is_too_deep_is_refused(depth: int, left: str, right: str) -> None:
    assert f"nested more than {MAX_DEPTH} deep" in refusal(left * depth + right * depth)


def test_a_document_may_be_as_deep_as_that() -> None:
    assert parse("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_every_value_has_its_line() -> None:
    document = parse_yaml("a: 1\n\nb:\n  - x\n  - c: 2\n    d: {e:\n 3}\n", source="s.yaml", base=Path("/"))
    lines = {(): 1, ("a",): 1, ("b",): 3, ("b", 0): 4, ("b", 1): 5, ("b", 1, "c"): 5, ("b", 1, "d"): 6}
    assert document.lines == lines | {("b", 1, "d", "e"): 6}
    assert document.place(("b", 1, "nowhere", "deep")) == "s.yaml:5"
    assert document.place(("nowhere",)) == "s.yaml:1"


def test_text_remembers_its_folder() -> None:
    assert parse("a: [x]")["a"][0].base == Path("/specs")
