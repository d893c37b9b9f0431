"""The quickstart's rows and questions: what they say of the picture is true, and nothing held out is trained on."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
pytest.importorskip("sklearn", reason="the digits are scikit-learn's")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """Its three scripts; their names are left to others afterwards."""
    before = {name: sys.modules.pop(name, None) for name in ("questions", "prepare", "evaluate")}
    found = {}
    for name in before:
        spec = importlib.util.spec_from_file_location(name, QUICKSTART / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        found[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found[name])
    yield found
    for name, module in before.items():
        sys.modules.pop(name)
        if module is not None:
            sys.modules[name] = module


def conclusion(answer: str) -> str:
    return answer.rsplit(",", 1)[-1].strip().removesuffix(".")


def test_answers_follow_from_the_labels(made: dict[str, ModuleType]) -> None:
    rng, tasks = random.Random(0), made["questions"].TASKS
    for task in [name for stage in made["prepare"].STAGES.values() for name in stage if name in tasks]:
        labels, turns = made["prepare"].conversation(task, rng)
        assert len(labels) == tasks[task].digits
        places = made["questions"].PLACES.get(len(labels), ())
        for question, answer in turns:
            digits = [int(letter) for letter in answer if letter.isdigit()]
            if task.startswith("read"):
                assert digits == labels
            elif task.startswith("locate"):
                place, _, found = conclusion(answer).removesuffix(" yes").rpartition(" ")
                assert labels[places.index(place)] == int(found) == int(question.removesuffix("?")[-1])
                assert answer.count(" no") == labels.index(int(found))
            elif task.startswith("count"):
                assert int(conclusion(answer)) == labels.count(int(question.split()[2][0])) == answer.count("yes")
            elif task.startswith("add"):
                assert digits[0] + digits[1] == int(answer.split("=")[1])
            elif task.startswith("at a place"):
                (where,) = [place for place in places if f" {place}?" in question]
                assert digits == [labels[places.index(where)]]
            elif task == "digit":
                assert digits == labels


def test_what_is_asked_in_training_alone_is_true_too(made: dict[str, ModuleType]) -> None:
    rng, questions = random.Random(0), made["questions"]
    for _ in range(100):
        labels, [(question, answer)] = made["prepare"].conversation(questions.NAMED, rng)
        for piece in answer.split(", "):
            place, digit = piece.rsplit(" ", 1)
            assert labels[questions.PLACES[4].index(place)] == int(digit)
            assert place in question
        labels, [(question, answer)] = made["prepare"].conversation(questions.SUMS, rng)
        names = [piece.split()[1] for piece in question.removeprefix("Add ").split(", ")]
        for name, piece in zip(names, answer.split(", "), strict=True):
            sides, total = piece.split("=")
            assert [int(side) for side in sides.split("+")] == [labels[place] for place in questions.PAIRS[name]]
            assert sum(map(int, sides.split("+"))) == int(total)


def test_no_original_is_on_both_sides(made: dict[str, ModuleType]) -> None:
    def shown(digits: object) -> set[bytes]:
        return {image.tobytes() for image in digits.images}  # type: ignore[attr-defined]

    train, held = map(shown, made["prepare"].load_digits_split(random.Random(3)))
    fewer, validation = map(shown, made["prepare"].load_digits_split(random.Random(3), validation=True))
    assert not train & held
    assert not fewer & validation
    assert not held & (fewer | validation)
    assert fewer | validation == train


@pytest.mark.parametrize(
    ("labels", "copies", "cells"), [([7], 1, 1), ([7], 6, 6), ([1, 2, 3, 4], 1, 4), ([*range(9)], 1, 9)]
)
def test_every_digit_lies_in_a_cell_of_its_own(
    made: dict[str, ModuleType], labels: list[int], copies: int, cells: int
) -> None:
    """So that no token of the connector's 3 x 3 sees two of them."""
    numpy = pytest.importorskip("numpy")
    digits, _ = made["prepare"].load_digits_split(random.Random(0))
    sheet = numpy.asarray(digits.sheet(labels, random.Random(1), copies).convert("L"))
    side = made["prepare"].CELL
    written = [sheet[r : r + side, c : c + side].min() < 128 for r in range(0, 96, side) for c in range(0, 96, side)]
    assert sum(written) == cells
    if len(labels) == 4:
        assert [place for place, is_written in enumerate(written) if is_written] == [0, 1, 3, 4]


def test_the_last_lines_say_what_an_override_changes(
    made: dict[str, ModuleType], tmp_path: Path, tiny_language_model: Path
) -> None:
    """The plans of the spec and of its swap, in numbers; minutes in proportion to the positions of a row."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    (tmp_path / "work" / "images").mkdir(parents=True)
    weights = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    parts = tmp_path / "work" / "parts"
    parts.mkdir()
    save_file(weights, parts / "efficientnet_lite0.safetensors")
    (parts / "smollm2-135m-instruct").symlink_to(tiny_language_model)
    text = (
        (QUICKSTART / "digits.yaml").read_text().replace("layers: 6", "layers: 2").replace("layers: 0-5", "layers: 0-1")
    )
    (tmp_path / "digits.yaml").write_text(text)
    (tmp_path / "run" / "metrics").mkdir(parents=True)
    for stage in made["prepare"].STAGES:
        (tmp_path / "work" / f"{stage}.jsonl").write_text("{}\n")
        size = yaml.safe_load(text)["stages"][stage]["batch"]["size"]
        line = json.dumps({"seconds": 60.0, "tokens": 45 * size})
        (tmp_path / "run" / "metrics" / f"{stage}.jsonl").write_text(f"{line}\n" * 4)
    said = made["evaluate"].swap(tmp_path / "digits.yaml", tmp_path / "run")
    assert f"lensmith train {tmp_path / 'digits.yaml'} '{made['evaluate'].SWAP}'" in said
    assert "36 positions instead of 9, a row 72 instead of 45" in said
    assert "13 minutes of training instead of 8" in said
