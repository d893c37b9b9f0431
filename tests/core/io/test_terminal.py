"""What reaches a terminal: no control characters of strangers, whatever the encoding, and no lost output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lensmith.io.terminal import guarded, raw, visible

HOSTILE = "\x1b]0;title\x07\x1b[31m\x9b2J\u202egpj"
PROGRAM = [sys.executable, "-m", "lensmith.cli"]


def lensmith(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, env=os.environ | environment)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31m", "\\u001b[31m"),
        ("bell\x07", "bell\\u0007"),
        ("back\rover", "back\\u000dover"),
        ("\x9b2J\x7f", "\\u009b2J\\u007f"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("half \ud800", "half \\ud800"),
        ("äé漢字🙂", "äé漢字🙂"),
    ],
)
def test_A19_control_characters_are_shown_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_A19_json_stays_json() -> None:
    text = visible(json.dumps({"id": HOSTILE}, ensure_ascii=False))
    assert json.loads(text) == {"id": HOSTILE}


def test_A19_a_guard_lasts_only_as_long_as_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    stream = sys.stdout
    with guarded():
        print(HOSTILE)
        print("\x1b[K", file=raw(sys.stderr), end="")
    assert sys.stdout is stream
    said = capsys.readouterr()
    assert "\x1b" not in said.out
    assert "\\u001b" in said.out
    assert said.err == "\x1b[K"


@pytest.mark.parametrize("key", [HOSTILE, f"model.{HOSTILE}"])
def test_A19_a_hostile_key_of_a_spec_does_not_reach_the_terminal(key: str, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({key: 1}))
    done = lensmith("check", spec)
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr + done.stdout
    assert b"\\u001b" in done.stderr


def test_A19_a_hostile_row_does_not_reach_the_terminal(spec: dict[str, Any], rows: Path, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": f"Say {HOSTILE}"}, {"from": "gpt", "value": HOSTILE}]
    file = rows.parent / "hostile.jsonl"
    file.write_text(json.dumps({"id": HOSTILE, "conversations": turns}) + "\n")
    spec["stages"] = {"align": spec["stages"]["align"] | {"data": {"sources": [{"path": str(file)}]}}}
    (tmp_path / "run.json").write_text(json.dumps(spec))
    for command in (["preview"], ["preview", "--json"], ["check"]):
        done = lensmith("data", command[0], tmp_path / "run.json", *command[1:], TERM="xterm-256color")
        for character in ("\x1b", "\x07", "\x9b", "\u202e"):
            assert character not in done.stdout.decode() + done.stderr.decode(), command


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", [["list"], ["show", "connector", "qformer"]])
def test_A20_any_encoding_of_standard_output_will_do(command: list[str], encoding: str) -> None:
    done = lensmith(*command, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding)


def test_A20_json_is_json_in_any_encoding(tmp_path: Path) -> None:
    for encoding in ("ascii", "utf-8"):
        done = lensmith("list", "--json", PYTHONIOENCODING=encoding)
        assert done.returncode == 0
        assert json.loads(done.stdout.decode(encoding))


def test_A20_a_message_with_letters_that_the_stream_lacks(tmp_path: Path) -> None:
    done = lensmith("check", tmp_path / "größe…漢.yaml", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert b"does not exist" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("command", [["list", "--json"], ["--help"]])
def test_A9_output_that_is_lost_is_no_success(command: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*PROGRAM, *command], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == ["error: standard output: No space left on device"]


def test_A9_a_reader_that_leaves_is_no_error_message() -> None:
    process = subprocess.Popen([*PROGRAM, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() in (0, 1, 141)  # 0 where all of it fitted into the pipe, 1 where click saw it
    assert said == b""
