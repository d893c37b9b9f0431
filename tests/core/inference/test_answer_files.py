"""`lensmith generate --input --output`: every question one line, whatever happens on the way."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import lensmith
from lensmith.cli import main

Ask = Callable[..., list[dict[str, Any]]]
SIZE = 30


@pytest.fixture(scope="module")
def artifact(model_spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "tiny"
    lensmith.assemble({"model": model_spec}).save(folder)
    return folder


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Of both kinds, some about the same picture, with the pictures beside them."""
    for name in ("red", "blue"):
        Image.new("RGB", (40, 30), name).save(tmp_path / f"{name}.png")
    rows: list[dict[str, Any]] = []
    for number in range(SIZE):
        if number % 3:
            rows.append(
                {"question_id": number, "image": ("red.png", "blue.png")[number % 2], "text": f"What is {number}?"}
            )
        else:
            rows.append(
                {"id": f"q{number}", "images": ["red.png", "blue.png"] if number % 2 else [], "prompt": "Say so."}
            )
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit code and standard error of `lensmith generate ARGUMENTS`."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["lensmith", "generate", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, said

    return call


@pytest.fixture
def ask(command: Callable[..., tuple[int, str]], artifact: Path, questions: Path, tmp_path: Path) -> Ask:
    """The answers' rows."""

    def call(*arguments: str, name: str = "answers.jsonl", max_new_tokens: int = 8) -> list[dict[str, Any]]:
        output = tmp_path / name
        length = ("--max-new-tokens", str(max_new_tokens))
        code, said = command(artifact, "--input", questions, "--output", output, *length, *arguments)
        assert code == 0, said
        return [json.loads(line) for line in output.read_text().splitlines()]

    return call


def test_rows_are_in_order_and_those_of_generate(ask: Ask, artifact: Path, questions: Path) -> None:
    rows = ask()
    model = lensmith.load(artifact)
    options = lensmith.GenerationOptions(max_new_tokens=8)
    for row, line in zip(rows, questions.read_text().splitlines(), strict=True):
        asked = json.loads(line)
        images = asked.get("images") or ([asked["image"]] if "image" in asked else [])
        prompt = asked.get("text") or asked["prompt"]
        said = model.generate([questions.parent / image for image in images], prompt, options)
        if "question_id" in asked:
            assert row == {"question_id": asked["question_id"], "prompt": prompt, "text": said, "model_id": "tiny"}
        else:
            assert row == {"id": asked["id"], "prompt": prompt, "answer": said}


@pytest.mark.parametrize("sampling", [(), ("--temperature", "1.5", "--seed", "3")], ids=["greedy", "sampled"])
def test_it_goes_on_after_any_cut(ask: Ask, tmp_path: Path, sampling: tuple[str, ...]) -> None:
    whole = ask(*sampling, name="whole.jsonl")
    data = (tmp_path / "whole.jsonl").read_bytes()
    for end in (0, 1, len(data) // 2, len(data) - 1, len(data)):
        output = tmp_path / "cut.jsonl"
        output.write_bytes(data[:end])
        (tmp_path / "cut.jsonl.settings.json").write_bytes((tmp_path / "whole.jsonl.settings.json").read_bytes())
        assert ask(*sampling, "--batch-size", "3", name="cut.jsonl") == whole
        assert output.read_bytes() == data


def test_it_goes_on_after_a_kill(artifact: Path, questions: Path, tmp_path: Path, ask: Ask) -> None:
    whole = ask(name="whole.jsonl", max_new_tokens=150)
    output = tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "lensmith.cli", "generate", str(artifact), "--input", str(questions)]
    command += ["--output", str(output), "--max-new-tokens", "150", "--batch-size", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and (not output.exists() or output.read_bytes().count(b"\n") < 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= output.read_bytes().count(b"\n") < SIZE
    with output.open("ab") as file:  # as if it had died while it wrote
        file.write(b'{"question_id": 1, "text": "half of a l')
    assert ask(max_new_tokens=150) == whole
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_what_is_complete_loads_no_weights(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ask()
    monkeypatch.setattr("lensmith.loading.load", None)
    assert ask() == rows


def test_other_settings_are_refused(
    ask: Ask, command: Callable[..., tuple[int, str]], artifact: Path, questions: Path, tmp_path: Path
) -> None:
    ask()
    output = tmp_path / "answers.jsonl"
    base = (artifact, "--input", questions, "--output", output, "--max-new-tokens")
    code, said = command(*base, "9")
    assert (code, said.count("made with other settings (max_new_tokens 8, now 9)")) == (2, 1)
    other = lensmith.load(artifact)
    other.connector.get_parameter(next(name for name, _ in other.connector.named_parameters())).data += 1
    code, said = command(other.save(tmp_path / "other"), *base[1:], "8")
    assert (code, said.count("other settings (artifact ")) == (2, 1)
    (tmp_path / "answers.jsonl.settings.json").unlink()
    code, said = command(*base, "8")
    assert (code, said.count("answers.jsonl holds something already")) == (2, 1)


def test_other_questions_are_refused(
    ask: Ask, command: Callable[..., tuple[int, str]], artifact: Path, questions: Path, tmp_path: Path
) -> None:
    rows = ask()
    lines = questions.read_text().splitlines(keepends=True)
    base = (artifact, "--input", questions, "--output", tmp_path / "answers.jsonl", "--max-new-tokens", "8")
    questions.write_text("".join([*lines, json.dumps({"id": "more", "prompt": "And now?"}) + "\n"]))
    assert ask()[:-1] == rows  # more of them may come
    questions.write_text("".join([lines[0], lines[1].replace("What", "Who"), *lines[2:]]))
    code, said = command(*base)
    assert (code, said.count("answers.jsonl:2 is not about the question in line 2 of the input")) == (2, 1)
    questions.write_text("".join(lines[:5]))
    code, said = command(*base)
    assert (code, said.count("has more lines than there are questions")) == (2, 1)


BAD = [
    ("oops", "is not JSON"),
    ("[1]", "is list, not an object"),
    ('{"prompt": "a"}', 'has neither "question_id" nor "id"'),
    ('{"id": 1.5, "prompt": "a"}', 'its "id" is float, not text or a whole number'),
    ('{"id": 100}', "has no question"),
    ('{"id": 101, "prompt": "a", "image": 3}', 'its "image" is neither a path nor a list of paths'),
    ('{"id": 102, "prompt": "a", "image": "red.png", "images": []}', 'has both "image" and "images"'),
    ('{"id": 103, "prompt": "<image><image>", "image": "red.png"}', "the prompt holds 2 <image> for 1 pictures"),
    ('{"id": 104, "prompt": "a", "image": "../red.png"}', "../red.png: holds `..`"),
    ('{"id": 105, "prompt": "a", "image": "gone.png"}', "gone.png: there is no such file"),
    ('{"id": "q0", "prompt": "again"}', "id 'q0' appears twice"),
    ('{"id": 106, "prompt": "\\ud800"}', "half of a surrogate pair"),
]


def test_bad_rows_are_told_at_once_or_passed_over(
    ask: Ask, command: Callable[..., tuple[int, str]], artifact: Path, questions: Path, tmp_path: Path
) -> None:
    good = questions.read_text().splitlines()[:4]
    Image.new("RGB", (9, 9)).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:40])
    broken = '{"id": 107, "prompt": "a", "image": "half.png"}'  # seen only when it is opened
    questions.write_text("\n".join([*good[:2], *(line for line, _ in BAD), "", *good[2:], broken]) + "\n")
    output = tmp_path / "answers.jsonl"
    code, said = command(artifact, "--input", questions, "--output", output, "--max-new-tokens", "8")
    assert code == 2
    for number, (_, words) in enumerate(BAD, 3):
        assert f"questions.jsonl:{number}" in said
        assert said.count(words) == 1
    assert "--bad-rows skip" in said
    assert not output.exists()

    rows = ask("--bad-rows", "skip")
    assert [("error" in row) for row in rows] == [False] * 2 + [True] * len(BAD) + [False] * 2 + [True]
    assert ask("--bad-rows", "skip") == rows
    code, said = command(
        artifact, "--input", questions, "--output", output, "--max-new-tokens", "8", "--bad-rows", "skip"
    )
    assert f"{len(BAD) + 1} of them could not be asked" in said


def test_a_broken_picture_ends_it_after_what_comes_before(
    command: Callable[..., tuple[int, str]], artifact: Path, questions: Path, tmp_path: Path
) -> None:
    lines = questions.read_text().splitlines()
    lines[5] = '{"id": "broken", "prompt": "a", "image": "half.png"}'
    questions.write_text("\n".join(lines) + "\n")
    (tmp_path / "half.png").write_bytes((tmp_path / "red.png").read_bytes()[:50])
    output = tmp_path / "answers.jsonl"
    code, said = command(artifact, "--input", questions, "--output", output, "--max-new-tokens", "8")
    assert code == 2
    assert "questions.jsonl:6 (id 'broken') " in said
    assert "half.png: is truncated" in said
    assert len(output.read_text().splitlines()) == 5


def test_options_that_do_not_go_together(
    command: Callable[..., tuple[int, str]], artifact: Path, questions: Path
) -> None:
    for arguments in (("--input", questions), ("--output", "x"), ("--input", questions, "--output", "x", "-p", "Hi")):
        code, said = command(artifact, *arguments)
        assert code == 2
        assert "--input and --output go together" in said
    code, said = command(artifact, "--input", questions, "--output", questions.parent / "no" / "x.jsonl")
    assert (code, said.count("x.jsonl cannot be written (No such file or directory)")) == (2, 1)


@pytest.mark.parametrize("text", ['{"notes": "one line, no newline"}', "line one\nline two, no newline"])
def test_a_file_that_is_not_ours_is_left_as_it_is(text: str, tmp_path: Path) -> None:
    from lensmith.inference.answer_file import AnswerFile

    file = tmp_path / "notes.txt"
    file.write_text(text)
    with pytest.raises(lensmith.DataError, match="holds something already"):
        AnswerFile(file, {})
    assert file.read_text() == text


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lensmith.inference.answer_file import AnswerFile

    def none(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with AnswerFile(tmp_path / "answers.jsonl", {}):
        pass


def test_two_writers_are_one_too_many(
    command: Callable[..., tuple[int, str]], artifact: Path, questions: Path, tmp_path: Path
) -> None:
    from lensmith.inference.answer_file import AnswerFile

    output = tmp_path / "answers.jsonl"
    with AnswerFile(output, {}):
        code, said = command(artifact, "--input", questions, "--output", output)
    assert (code, said.count("is being written by another process")) == (2, 1)
