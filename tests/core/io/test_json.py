"""The one reader of JSON that is not ours: what is taken, and one line with place and cure for what is not."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from lensmith.io.json import (
    MAX_DEPTH,
    MAX_DIGITS,
    JsonError,
    NotJson,
    parse_json,
    read_bytes,
    read_json,
    read_lines,
    read_object,
)


def refusal(content: str | bytes, **options: Any) -> str:
    with pytest.raises(JsonError) as caught:
        parse_json(content, "f.json", **options)
    told = str(caught.value)
    assert "\n" not in told
    assert "; " in told  # a cure
    return told


def nested(depth: int, opening: str = "[", closing: str = "]", inner: str = "") -> str:
    return opening * depth + inner + closing * depth


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -2.5e3, true, null, "é\\u00e9\\ud83d\\ude00"]}',
        '"\\\\ud83d"',  # a backslash, then letters
        '["' + "[" * 500 + '"]',  # brackets that are text
        '{"a": "\\"' + "{" * 500 + '\\""}',
        nested(MAX_DEPTH),
        "[" + ",".join(["[]"] * 1000) + "]",
        "9" * MAX_DIGITS,
        "\n\t [1]\r\n ",
        '{"a": {"a": 1}, "b": {"a": 1}}',  # the same key in other objects
    ],
)
def test_what_json_is_read_as_by_pythons_own_reader(text: str) -> None:
    assert parse_json(text, "") == json.loads(text)
    assert parse_json(b"\xef\xbb\xbf" + text.encode(), "") == json.loads(text)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (nested(MAX_DEPTH + 1), "f.json:1", "nested more than"),
        ("\n" + nested(1000), "f.json:2", "nested more than"),
        ("[" * 100_000, "f.json:1", "nested more than"),
        (nested(1000, '{"a":', "}", "1"), "f.json:1", "nested more than"),
        ("[1,\n" + "9" * 4301 + "]", "f.json:2", "4301 digits"),
        ("-" + "9" * (MAX_DIGITS + 1), "f.json:1", f"{MAX_DIGITS + 1} digits"),
        ('{"id": "a",\n "b": [{"id": 1}],\n "id": 2}', "f.json:3", "the key 'id' appears twice"),
        ('{"id": 1, "\\u0069d": 2}', "f.json:1", "the key 'id' appears twice"),
        ('["a",\n"x\\ud800"]', "f.json:2", "half of a surrogate pair"),
        ('{"\\udc00": 1}', "f.json:1", "half of a surrogate pair"),
        ('"\\ud83d\\ud83d\\ude00"', "f.json:1", "half of a surrogate pair"),
        ("[0,\nNaN]", "f.json:2", "NaN is no value of JSON"),
        ("-Infinity", "f.json:1", "-Infinity is no value of JSON"),
        ("[1e999]", "f.json:1", "larger than any number"),
        ("[-1.5E+999]", "f.json:1", "larger than any number"),
        ("", "f.json:1", "it is empty"),
        (" \n\t", "f.json:2", "it is empty"),
        ("{'a': 1}", "f.json:1", "not valid JSON: Expecting property name"),
        ('{"a": 1,\n}', "f.json:2", "not valid JSON"),
        ("[1] [2]", "f.json:1", "something follows the value"),
        ('"' + "[" * 200, "f.json:1", "Unterminated string"),
        ("<!DOCTYPE html><p>", "f.json:1", "a web page"),
        ("version https://git-lfs.github.com/spec/v1\n", "f.json:1", "git lfs pull"),
        ('["\x00"]', "f.json:1", "not valid JSON"),
        ("{'a': 1, 'a': 2}", "f.json:1", "not valid JSON"),
        # What comes first is told.
        ('{"a": 1, "a": 2,}', "f.json:1", "appears twice"),
        ('{"a": 1,, "a": 2}', "f.json:1", "not valid JSON"),
    ],
)
def test_A5_what_is_refused_names_line_and_cure(text: str, place: str, message: str) -> None:
    for content in (text, text.encode()):
        told = refusal(content)
        assert told.startswith(place + ": ")
        assert message in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["é"]'.encode("latin-1"), "f.json:1: not UTF-8 text: the byte 0xe9"),
        (b'["a",\n"\xed\xa0\x80"]', "f.json:2: not UTF-8 text: the byte 0xed"),  # a surrogate, written as bytes
        ('["a"]'.encode("utf-16"), "UTF-16"),
        ('["a"]'.encode("utf-16-le"), "UTF-16"),
        ('["a"]'.encode("utf-16-be"), "UTF-16"),
        ('["a"]'.encode("utf-32"), "UTF-32"),
        (b"\x1f\x8b\x08\0\0\0\0\0\xff", "a gzip file"),
        (b"PAR1\xff\xfe", "a Parquet file"),
        (b"PK\x03\x04\xff", "a ZIP archive"),
        (b"\x80\x04\x95\xff", "a Python pickle"),
    ],
)
def test_A5_bytes_that_are_no_text_say_what_they_are(content: bytes, message: str) -> None:
    assert message in refusal(content)


def test_in_a_file_of_lines_the_column_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 1, "a": 2}\n')
    with pytest.raises(JsonError, match=r"a\.jsonl:3: the key 'a' appears twice in one object at column 10; leave one"):
        list(read_lines(file))
    file.write_bytes(b'\xef\xbb\xbf\n{"a": 1}\r\n"\xe2\x80\xa8"')
    assert [(record.value, record.place) for record in read_lines(file)] == [
        ({"a": 1}, f"{file}:2"),
        ("\u2028", f"{file}:3"),
    ]


def test_numbers_that_only_python_writes_are_taken_where_they_are_asked_for() -> None:
    assert parse_json("[Infinity, 1e999]", "", nonfinite=True) == [float("inf")] * 2
    assert "digits" in refusal("9" * 4301, nonfinite=True)
    assert "appears twice" in refusal('{"x": NaN, "x": 1}', nonfinite=True)


def test_a_fault_of_form_is_told_from_what_is_only_refused() -> None:
    with pytest.raises(NotJson):
        parse_json("{", "")
    with pytest.raises(JsonError) as caught:
        parse_json('{"a": 1, "a": 1}', "f.json")
    assert not isinstance(caught.value, NotJson)
    assert caught.value.reason == "the key 'a' appears twice in one object; leave one of them"


def test_A5_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(tmp_path)  # a socket's path is short
        bound.bind("socket")
        places = [(tmp_path / "pipe", "is a pipe"), (tmp_path / "socket", "not a regular file")]
        places += [(Path("/dev/zero"), "is a device"), (tmp_path, "is a folder"), (tmp_path / "none", "does not exist")]
        places += [(Path("a\0b"), "null byte"), (Path("n" * 300), "too long"), (tmp_path / "pipe" / "x", "cannot be")]
        told: list[str] = []

        def read() -> None:
            for path, _ in places:
                try:
                    read_json(path)
                except JsonError as error:
                    told.append(str(error))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(20)
    assert len(told) == len(places)
    for text, (_, message) in zip(told, places, strict=True):
        assert message in text


def test_sizes_and_kinds_are_held_to_what_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("[1, 2]")
    with pytest.raises(JsonError, match=r"a\.json: is 6 bytes large, more than the 5"):
        read_bytes(file, 5)
    with pytest.raises(JsonError, match=r"a\.json: holds a list, where an object is needed"):
        read_object(file)
    with (tmp_path / "sparse.json").open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(JsonError, match="split it"):
        read_json(tmp_path / "sparse.json")
    with pytest.raises(JsonError, match="nothing but zero bytes"):
        list(read_lines(tmp_path / "sparse.json"))


@pytest.mark.parametrize("cut", range(0, 90, 7))
def test_any_beginning_of_a_text_ends_in_one_line(cut: int) -> None:
    text = '{"id": "\\ud83d\\ude00", "n": [1, 2.5e3, {"x": null}], "t": "a\\"[", "v": [[[]]], "w": true, "e": ""}  '
    if cut < len(text.strip()):
        refusal(text[:cut])
        refusal((text[:cut] + "\0" + text[cut:]).encode())
