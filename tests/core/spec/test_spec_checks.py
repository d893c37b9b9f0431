"""What a valid spec still gets wrong, known from config files and paths alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith import Component, Kind, SpecError, VisionEncoderSpec, load_spec
from lensmith.spec import installed
from lensmith.spec.check import check
from lensmith.spec.check import checked as checked_spec
from lensmith_registry import Plugin, Registry

Checked = Callable[..., dict[str, str]]


@pytest.fixture
def sound(light_spec: dict[str, Any]) -> dict[str, Any]:
    """A spec without a mistake."""
    return light_spec


@pytest.fixture
def checked(sound: dict[str, Any]) -> Checked:
    """Messages by path, of the sound spec with overrides."""
    return lambda *overrides: {p.path: p.message for p in check(load_spec(sound, overrides))}


def test_a_sound_spec(sound: dict[str, Any], checked: Checked) -> None:
    assert checked() == {}
    assert checked_spec(sound) == load_spec(sound)


def test_checked_raises_all_of_it_with_its_place(sound: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(sound | {"start_from": "nowhere"}, indent=1))
    with pytest.raises(SpecError) as caught:
        checked_spec(file, ["model.connector=identity"])
    assert [problem.path for problem in caught.value.problems] == ["model", "start_from"]
    line = file.read_text().splitlines().index(' "start_from": "nowhere"') + 1
    assert caught.value.problems[1].place == f"{file}:{line}"


def test_widths_that_cannot_fit(checked: Checked) -> None:
    message = checked("model.connector=identity")["model"]
    for words in ("identity", "width 48", "width 32", "use a linear or mlp connector"):
        assert words in message


def test_files_and_folders_that_are_not_there(checked: Checked, tmp_path: Path) -> None:
    found = checked(
        f"stages.align.data.sources=[{tmp_path}/no.jsonl, {{path: {tmp_path}/rows.jsonl, images: {tmp_path}/nodir}}]",
        f"stages.align.deepspeed.config={tmp_path}/no.json",
        f"start_from={tmp_path}",
    )
    assert found == {
        "start_from": f"{tmp_path} is not an artifact (it has no manifest.json)",
        "stages.align.data.sources.0.path": f"{tmp_path}/no.jsonl does not exist; it names a file of rows",
        "stages.align.data.sources.1.images": (
            f"{tmp_path}/nodir does not exist; it names the folder that `image` paths start from"
        ),
        "stages.align.deepspeed.config": f"{tmp_path}/no.json does not exist",
    }


def test_names_that_are_too_long_for_the_file_system(checked: Checked) -> None:
    long = "x" * 300
    overrides = [f"stages.align.data.sources={{path: {long}, images: {long}}}", f"start_from={long}"]
    overrides += [f"stages.align.deepspeed.config={long}"]
    assert len(checked(*overrides)) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_rows_that_may_not_be_read(checked: Checked, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").chmod(0)
    assert "cannot be read (permissions)" in checked()["stages.align.data.sources.0.path"]


@pytest.mark.parametrize(
    ("part", "checkpoint", "message"),
    [
        (
            "vision_encoder",
            "/no/such/folder",
            "/no/such/folder does not exist; give a local folder that holds config.json",
        ),
        (
            "language_model",
            "/no/such/folder",
            "/no/such/folder does not exist; give a local folder, a .gguf file or a hub id",
        ),
        ("vision_encoder", "language", "its config is of a 'llama' model"),
        ("language_model", "encoder", "clip_vision_model"),
        ("vision_encoder", "broken", "config.json:1: not valid JSON"),
        ("language_model", "list", "config.json: holds a list, where an object is needed"),
    ],
)
def test_checkpoints_that_are_not_what_they_should_be(
    part: str, checkpoint: str, message: str, checked: Checked, tmp_path: Path
) -> None:
    for name, text in (("broken", "{"), ("list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    found = checked(f"model.{part}.checkpoint={tmp_path / checkpoint}")
    assert list(found) == [f"model.{part}"]
    assert message in found[f"model.{part}"]


def test_both_halves_are_told_at_once(checked: Checked) -> None:
    found = checked("model.vision_encoder.checkpoint=/no/a", "model.language_model.checkpoint=/no/b")
    assert list(found) == ["model.vision_encoder", "model.language_model"]


def test_a_layer_that_the_encoder_does_not_have(checked: Checked) -> None:
    message = checked("model.vision_encoder.select_layer=9")["model.vision_encoder"]
    assert "select_layer 9 is not in this encoder of 3 layers; it may be -4 to 3" in message


@pytest.mark.parametrize(
    ("size", "micro", "cures"), [(4, 8, "4, or batch.size to 8"), (4, 3, "2 or 4, or batch.size to 6")]
)
def test_a_micro_batch_that_does_not_divide(size: int, micro: int, cures: str, checked: Checked) -> None:
    found = checked(f"stages.align.batch={{size: {size}, micro: {micro}}}")
    told = f"a step of {size} rows (batch.size) cannot be taken {micro} at a time; set batch.micro to {cures}"
    assert found["stages.align.batch.micro"] == told


def test_a_row_that_one_picture_fills(checked: Checked, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "encoder" / "config.json").read_text()) | {"image_size": 112}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    message = checked()["stages.align.data.max_length"]
    assert message.startswith("one picture takes 64 positions and a row may take 64; raise it, or choose an encoder")
    assert "a row may take 16" in checked("stages.align.data.max_length=16")["stages.align.data.max_length"]


def test_a_tuner_that_aims_at_nothing(checked: Checked) -> None:
    found = checked("stages.align.tuner={name: lora, targets: [language_model.no_such_layer]}")
    assert list(found) == ["stages.align.tuner"]
    assert "no_such_layer" in found["stages.align.tuner"]


def test_an_encoder_whose_package_fails_is_named_where_it_stands(
    sound: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unmeasured(VisionEncoderSpec):
        """Without a closed form."""

    part = Component(Kind.VISION_ENCODER, "unmeasured", Unmeasured, "not_installed_at_all:E", "x", "theirs", "0.2")
    registry = Registry([*installed().plugins, Plugin("theirs", "theirs", "0.2", "m", components=(part,))])
    monkeypatch.setattr("lensmith.parts.installed", lambda: registry)
    spec = load_spec(sound, ["model.vision_encoder=unmeasured"], registry)
    assert check(spec) == []  # nothing is imported where nobody asked to measure
    (problem,) = check(spec, measure=True)
    assert problem.path == "model.vision_encoder"
    assert "vision_encoder 'unmeasured' of theirs 0.2 cannot be imported" in problem.message
