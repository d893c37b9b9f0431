"""Wrong input at the command line: exit code 2, one message with the place and the remedy, never a traceback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lensmith import Component, ConversationSpec, Kind, LensmithError
from lensmith.cli import main
from lensmith.parts import implementation
from lensmith.spec import installed, part_class
from lensmith_registry import Plugin, Registry

Refused = Callable[..., str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """What `lensmith ARGUMENTS` says when it refuses."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["lensmith", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 2, said
        assert "Traceback" not in said.err + said.out
        return said.err

    return run


def process(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lensmith.cli", *map(str, arguments)]
    variables = os.environ | {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""} | environment
    return subprocess.run(command, capture_output=True, text=True, env=variables)


@pytest.fixture
def rows_file(rows: Path, tmp_path: Path) -> Callable[..., Path]:
    """A file of the given rows (or raw lines) whose pictures are those of the good rows."""

    def write(*lines: dict[str, Any] | str) -> Path:
        for picture in rows.parent.glob("*.png"):
            (tmp_path / picture.name).write_bytes(picture.read_bytes())
        file = tmp_path / "mine.jsonl"
        file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return file

    return write


def row(
    identity: str = "good", image: str | list[str] = "0.png", question: str = "<image>\nWhat colour is it?"
) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "red"}]
    return {"id": identity, "image": image, "conversations": turns}


SPEC_MISTAKES = [
    (
        "model.connector=mpl",
        ["model.connector: no connector is called 'mpl'", "Did you mean 'mlp'?", "identity, linear, mlp"],
    ),
    ("model.language_model.name=lama", ["no language_model is called 'lama'", "Did you mean 'llama'"]),
    ("model.connector=lora", ["no connector is called 'lora'", "('lora' is the name of a tuner.)"]),
    ("model.connector.depth=deep", ["model.connector.depth: should be a valid integer", "it is 'deep'"]),
    ("stages.align.lr=fast", ["stages.align.lr: should be a valid number", "it is 'fast'"]),
    ("stages.align.precision=fp8", ["stages.align.precision: should be 'auto', 'fp32', 'bf16' or 'fp16'"]),
    (
        "model.connector.depht=3",
        ["model.connector.depht: there is no such field", "Did you mean 'depth'?", "input_norm"],
    ),
    ("stages.align.lrr=3", ["stages.align.lrr: there is no such field", "Did you mean 'lr'?"]),
    ("model.connector.depth", ["an override reads dotted.path=value, e.g. model.connector.depth=3"]),
]


@pytest.mark.parametrize(("override", "words"), SPEC_MISTAKES)
@pytest.mark.parametrize("command", [["check"], ["plan"], ["train"], ["data", "check"]], ids=" ".join)
def test_mistakes_in_a_spec(
    command: list[str], override: str, words: list[str], refused: Refused, spec_file: Path
) -> None:
    said = refused(*command, spec_file, override)
    assert f"override {override!r}: " in said
    for word in words:
        assert said.count(word) == 1


def test_mistakes_in_a_file_come_with_their_lines(refused: Refused, spec: dict[str, Any], tmp_path: Path) -> None:
    spec["model"]["connector"] = {"name": "mlp", "depht": 3}
    spec["stages"]["align"]["tuner"] = "frosen"
    file = tmp_path / "mistakes.json"
    file.write_text(json.dumps(spec, indent=1))
    lines = file.read_text().splitlines()
    depth, tuner = (next(n for n, line in enumerate(lines, 1) if word in line) for word in ("depht", "frosen"))
    said = refused("check", file).splitlines()
    assert said[0].startswith(f"{file}:{depth}: model.connector.depht: ")
    assert said[1].startswith(
        f"{file}:{tuner}: stages.align.tuner: no tuner is called 'frosen'. Did you mean 'frozen'?"
    )
    assert said[2:] == [f"2 problems in {file}"]


@pytest.mark.parametrize(
    "command", [["check"], ["plan"], ["train"], ["data", "check"], ["data", "preview"]], ids=" ".join
)
def test_a_missing_spec_file(command: list[str], refused: Refused, tmp_path: Path) -> None:
    said = refused(*command, tmp_path / "no.yaml")
    assert said.count(f"{tmp_path / 'no.yaml'} does not exist; give the path of a spec file") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {a: 1\n", ["bad.yaml:2: not valid YAML"]),
        ("a: 1\na: 2\n", ["bad.yaml:2: the key 'a' appears twice; it stands in line 1 already"]),
        ("a: !!python/object:os.system {}\n", ["bad.yaml:1: the tag !!python/object:os.system is not supported"]),
        (
            "extends: llava-1.5-7\n",
            ["bad.yaml:1: extends: 'llava-1.5-7' is neither a spec file", "Did you mean llava-1.5-7b"],
        ),
        ("- a\n", ["bad.yaml: a spec is a mapping with `model:` and `stages:`"]),
        ("", ["model: is required"]),
    ],
)
def test_a_spec_file_that_cannot_be_read(text: str, words: list[str], refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    for command in ("check", "train"):
        said = refused(command, file)
        assert all(word in said for word in words)


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_missing_rows_file(command: str, refused: Refused, spec_file: Path, tmp_path: Path) -> None:
    said = refused(command, spec_file, f"stages.align.data.sources.0.path={tmp_path}/no.jsonl")
    assert f"stages.align.data.sources.0.path: {tmp_path}/no.jsonl does not exist; it names a file of rows" in said


def test_a_missing_rows_file_in_data_check(refused: Refused, spec_file: Path, tmp_path: Path) -> None:
    said = refused("data", "check", spec_file, f"stages.align.data.sources.0.path={tmp_path}/no.jsonl")
    assert said == f"error: {tmp_path}/no.jsonl does not exist; `path` names a JSON or JSON-lines file of rows\n"


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_missing_image_folder(command: str, refused: Refused, spec_file: Path, tmp_path: Path) -> None:
    said = refused(command, spec_file, f"stages.align.data.sources.0.images={tmp_path}/pictures")
    assert f"stages.align.data.sources.0.images: {tmp_path}/pictures does not exist" in said
    assert "it names the folder that `image` paths start from" in said


@pytest.mark.parametrize("command", ["check", "train"])
def test_widths_that_cannot_fit(
    command: str, refused: Refused, spec_file: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    config = json.loads((tiny_encoder / "config.json").read_text()) | {"hidden_size": 48}
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "config.json").write_text(json.dumps(config))
    said = refused(command, spec_file, f"model.vision_encoder.checkpoint={tmp_path}/wide", "model.connector=identity")
    for word in ("model: ", "the identity connector", "width 48", "width 32", "use a linear or mlp connector"):
        assert word in said


def test_a_checkpoint_that_is_not_there(refused: Refused, spec_file: Path, tmp_path: Path) -> None:
    said = refused("check", spec_file, f"model.language_model.checkpoint={tmp_path}/no")
    assert f"model.language_model: {tmp_path}/no does not exist; give a local folder, a .gguf file or a hub id" in said


def test_rows_that_cannot_be_used(refused: Refused, spec_file: Path, rows_file: Callable[..., Path]) -> None:
    file = rows_file(
        row(),
        row("two", ["0.png", "1.png"]),
        '{"id": "broken", "image": ',
        row("cut", "cut.png"),
        row("gone", "gone.png"),
        row("text", "notes.txt"),
        row("out", "../0.png"),
        {"id": "silent"},
    )
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    (file.parent / "cut.png").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (file.parent / "notes.txt").write_text("no picture")
    said = refused("data", "check", spec_file, "--stage", "align", "--jobs", "1", f"stages.align.data.sources=[{file}]")
    problems = [line.strip() for line in said.splitlines() if line.strip()]
    expected = [
        (2, "row 'two' has 2 pictures but 1 <image> in its turns; there must be one for each"),
        (3, "not valid JSON: "),
        (4, f"row 'cut': {file.parent}/cut.png: is truncated"),
        (5, f"row 'gone': {file.parent}/gone.png: there is no such file; check the path and the image folder"),
        (6, f"row 'text': {file.parent}/notes.txt: is not a picture that can be read"),
        (7, "row 'out': ../0.png: holds `..`; rows may only name files inside the image folder"),
        (8, "row 'silent' has no `conversations`"),
    ]
    assert len(problems) == len(expected)
    for problem, (line, message) in zip(problems, expected, strict=True):
        assert problem.startswith(f"{file}:{line}: {message}")


def test_training_stops_before_weights_at_a_malformed_line(
    spec_file: Path, rows_file: Callable[..., Path], tmp_path: Path
) -> None:
    file = rows_file(row(), row("two", ["0.png", "1.png"]), "{'id': 3}")
    done = process("train", spec_file, f"stages.align.data.sources=[{file}]", "--output", tmp_path / "run")
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert said[-3].startswith("error: stage 'align': 2 of 3 rows cannot be used (set data.bad_rows: skip")
    assert said[-2].strip().startswith(f"{file}:2: row 'two' has 2 pictures but 1 <image>")
    assert said[-1].strip().startswith(f"{file}:3: not valid JSON: Expecting property name")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "align").exists()


def test_resuming_nothing(spec_file: Path, tmp_path: Path) -> None:
    done = process("train", spec_file, "--resume", "--output", tmp_path / "run")
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"there is nothing to resume in {tmp_path / 'run'}" in said
    assert "start without --resume" in said
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["train"], ["data", "check"], ["data", "preview"]], ids=" ".join)
def test_an_unknown_stage(command: list[str], refused: Refused, spec_file: Path) -> None:
    assert refused(*command, spec_file, "--stage", "tun") == "error: there is no stage 'tun'; stages: align, tune\n"


def test_generating_from_what_is_no_artifact(refused: Refused, tmp_path: Path) -> None:
    ask = ("--prompt", "What is it?")
    said = refused("generate", tmp_path / "no", *ask)
    assert said == f"error: {tmp_path / 'no'} does not exist; give the folder of a stage, e.g. runs/NAME/STAGE\n"
    assert refused("generate", tmp_path, *ask) == f"error: {tmp_path} is not an artifact: it has no manifest.json\n"
    (tmp_path / "align").mkdir()
    (tmp_path / "align" / "manifest.json").write_text("{}")
    assert refused("generate", tmp_path, *ask).endswith("it has no manifest.json; it holds artifacts: align\n")
    assert f"error: {tmp_path}/align/manifest.json cannot be read: KeyError" in refused(
        "generate", tmp_path / "align", *ask
    )


def test_questions_that_do_not_fit_their_pictures(refused: Refused, tmp_path: Path, rows: Path) -> None:
    picture = rows.parent / "0.png"
    said = refused("generate", tmp_path, "--prompt", "<image> and <image>?", "--image", picture)
    assert said == "error: the prompt holds 2 <image> for 1 pictures; write one for each, or none\n"
    said = refused("generate", tmp_path, "--prompt", "What?", "--image", tmp_path / "no.png")
    assert said == f"error: {tmp_path}/no.png: there is no such file; check the path and the image folder\n"
    (tmp_path / "notes.png").write_text("no picture")
    assert "is not a picture that can be read" in refused(
        "generate", tmp_path, "-p", "What?", "-i", tmp_path / "notes.png"
    )


def test_a_plugin_that_fails_is_named_by_who_asks_for_its_part(spec_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    info = folder / "fancy_connectors-0.4.dist-info"
    info.mkdir(parents=True)
    (folder / "fancy.py").write_text("import a_library_that_nobody_installed\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fancy-connectors\nVersion: 0.4\n")
    (info / "entry_points.txt").write_text("[lensmith]\nfancy = fancy\n")
    asked = process("check", spec_file, "model.connector=fancy", PYTHONPATH=str(folder))
    assert asked.returncode == 2
    for words in (
        "model.connector: no connector is called 'fancy'",
        "Package fancy-connectors 0.4 may provide it but failed: ModuleNotFoundError",
        "a_library_that_nobody_installed",
        "see `lensmith plugins`",
    ):
        assert asked.stderr.count(words) == 1
    assert "Traceback" not in asked.stderr
    assert process("check", spec_file, PYTHONPATH=str(folder)).returncode == 0


def test_a_part_whose_implementation_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Component(
        Kind.CONVERSATION, "fancy", ConversationSpec, "a_library_that_nobody_installed:T", "x", "fancy", "0.4"
    )
    registry = Registry([*installed().plugins, Plugin("fancy", "fancy", "0.4", "m", components=(part,))])
    monkeypatch.setattr("lensmith.parts.installed", lambda: registry)
    with pytest.raises(
        LensmithError, match=r"conversation 'fancy' of fancy 0\.4 cannot be imported .*ModuleNotFoundError"
    ):
        implementation(Kind.CONVERSATION, part_class(Kind.CONVERSATION, "fancy", registry)())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "connector", "mpl"], ["no connector is called 'mpl'", "Did you mean 'mlp'?"]),
        (["show", "conector", "mlp"], ["'conector' is not one of", "'connector'"]),
        (["list", "--kind", "tunar"], ["'tunar' is not one of", "'tuner'"]),
        (["chek", "x.yaml"], ["No such command 'chek'"]),
        (["check"], ["Missing argument 'SPEC'"]),
        (["train", "x.yaml", "--nproc", "0"], ["Invalid value for '--nproc'", "greater than or equal to 1"]),
        (["generate", "x"], ["Missing option '--prompt'"]),
    ],
    ids=" ".join,
)
def test_commands_that_are_misused(arguments: list[str], words: list[str], refused: Refused) -> None:
    said = refused(*arguments)
    for word in words:
        assert word in said
