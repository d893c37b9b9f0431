"""The main job in miniature: learn three colours from pictures, ship the model, ask it about pictures it never saw."""

from __future__ import annotations

import colorsys
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import lensmith

QUESTION = "What colour is it?"
HUES = {"red": 0.0, "green": 1 / 3, "blue": 2 / 3}


def pictures(folder: Path, count: int, seed: int, sizes: tuple[int, int]) -> list[tuple[Path, str]]:
    """Pictures of one colour each, in random shades and sizes."""
    draw = random.Random(seed)
    folder.mkdir()
    made = []
    for number in range(count):
        name = list(HUES)[number % 3]
        hue = (HUES[name] + draw.uniform(-0.06, 0.06)) % 1.0
        shade = colorsys.hsv_to_rgb(hue, draw.uniform(0.7, 1.0), draw.uniform(0.6, 1.0))
        size = (draw.randint(*sizes), draw.randint(*sizes))
        file = folder / f"{number}.{('png', 'jpg')[number % 2]}"
        Image.new("RGB", size, tuple(round(255 * channel) for channel in shade)).save(file)
        made.append((file, name))
    return made


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours") / "train"
    rows = [
        {
            "id": str(number),
            "image": file.name,
            "conversations": [
                {"from": "human", "value": f"<image>\n{QUESTION}"},
                {"from": "gpt", "value": name},
            ],
        }
        for number, (file, name) in enumerate(pictures(folder, 36, seed=1, sizes=(20, 60)))
    ]
    file = folder / "rows.json"
    file.write_text(json.dumps(rows))
    return file


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    return pictures(tmp_path_factory.mktemp("unseen") / "pictures", 30, seed=2, sizes=(64, 200))


@pytest.fixture(scope="module")
def artifact(model_spec: dict[str, Any], shown: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage = {
        "tuner": {"name": "full", "connector_lr": 1e-2},
        "data": str(shown),
        "lr": 3e-3,
        "epochs": 60,
        "batch": {"size": 12},
        "precision": "fp32",
        "gradient_clipping": 1.0,
    }
    stage["data"] = {"sources": [stage["data"]]}
    spec = {"model": model_spec, "stages": {"colours": stage}}
    return lensmith.train(spec, output=tmp_path_factory.mktemp("run"))[0]


def test_it_learnt(artifact: Path) -> None:
    lines = (artifact.parent / "metrics" / "colours.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[0] > 4
    assert losses[-1] < 0.2


def test_it_answers_about_pictures_that_it_never_saw(artifact: Path, unseen: list[tuple[Path, str]]) -> None:
    model = lensmith.load(artifact)
    answers = model.generate_batch([(file, QUESTION) for file, _ in unseen])
    right = sum(answer == name for answer, (_, name) in zip(answers, unseen, strict=True))
    assert right >= 28, list(zip(answers, unseen, strict=True))


def test_it_looks_at_the_picture(artifact: Path, unseen: list[tuple[Path, str]]) -> None:
    """Without the picture it cannot know."""
    model = lensmith.load(artifact)
    grey = [(Image.new("RGB", (90, 70), (120, 120, 120)), QUESTION)] * 3
    assert len(set(model.generate_batch(grey))) == 1


def test_a_fresh_process_answers_the_same(artifact: Path, unseen: list[tuple[Path, str]]) -> None:
    moved = artifact.with_name("moved")
    artifact.rename(moved)
    try:
        file, _ = unseen[1]
        expected = lensmith.load(moved).generate(file, QUESTION)
        printed = subprocess.run(
            [sys.executable, "-m", "lensmith.cli", "generate", str(moved), "--image", str(file), "-p", QUESTION],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout == f"{expected}\n"
        assert expected == "green"
    finally:
        moved.rename(artifact)
