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


def test_facts_are_true(made: dict[str, ModuleType]) -> None:
    rng = random.Random(0)
    for _ in range(200):
        question, answer = made["questions"].fact(rng)
        if question.startswith("Add"):
            for piece in answer.split(", "):
                sides, total = piece.split("=")
                assert sum(map(int, sides.split("+"))) == int(total)
        elif question.startswith("Is"):
            assert answer == ("even", "odd")[int(question.split()[1]) % 2]
        else:
            one, two = int(question[0]), int(question.split(", ")[1][0])
            assert conclusion(answer) == f"larger {max(one, two)} {'left' if one > two else 'right'}"


def test_no_original_is_on_both_sides(made: dict[str, ModuleType]) -> None:
    def shown(digits: object) -> set[bytes]:
        return {image.tobytes() for image in digits.images}  # type: ignore[attr-defined]

    train, held = map(shown, made["prepare"].load_digits_split(random.Random(3)))
    fewer, validation = map(shown, made["prepare"].load_digits_split(random.Random(3), validation=True))
    assert not train & held
    assert not fewer & validation
    assert not held & (fewer | validation)
    assert fewer | validation == train


def test_digits_are_varied_only_where_it_is_said(made: dict[str, ModuleType]) -> None:
    digits, _ = made["prepare"].load_digits_split(random.Random(0))
    index = digits.by_label[7][0]
    digits.by_label[7] = [index]
    plain = [digits.picture([7], random.Random(seed)).tobytes() for seed in range(6)]
    assert len(set(plain)) == 1
    digits.vary = True
    varied = [digits.picture([7], random.Random(seed)).tobytes() for seed in range(6)]
    assert len(set(varied)) > 3


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
        line = json.dumps({"seconds": 60.0, "tokens": 24 * 72})
        (tmp_path / "run" / "metrics" / f"{stage}.jsonl").write_text(f"{line}\n" * 4)
    said = made["evaluate"].swap(tmp_path / "digits.yaml", tmp_path / "run")
    assert f"lensmith train {tmp_path / 'digits.yaml'} '{made['evaluate'].SWAP}'" in said
    assert "9 positions instead of 36, a row 45 instead of 72" in said
    assert "10 minutes of training instead of 16" in said
