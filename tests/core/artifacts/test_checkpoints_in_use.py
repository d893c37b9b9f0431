"""A checkpoint of a running stage is an artifact like the last one: any kind of tuner, any folder name, no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lensmith
from lensmith.data.batch import collate
from lensmith.data.reader import RowReader
from lensmith.data.sources import Mixture
from lensmith.spec.run import DataSpec

KINDS = {
    "frozen": {"name": "frozen"},
    "lora": {"name": "lora", "rank": 2},
    "qlora": {"name": "qlora", "rank": 2},
    "full": {"name": "full", "vision_encoder": True},
}
# Names that other programs decide by, and one that none would like.
NAMES = {"frozen": "llava-lora-qlora", "lora": "checkpoint", "qlora": "step-7 (copy)", "full": "é [1] base.bin"}
OFFLINE = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        os.write(2, f"the network was asked: {event} {arguments}".encode())
        os._exit(77)
sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def checkpoints(
    tiny_encoder: Path, tiny_language_model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, float]]:
    """The middle checkpoint of a run of each kind, alone and renamed, and the loss that the run had next."""
    pytest.importorskip("bitsandbytes")
    folder = tmp_path_factory.mktemp("checkpoints")
    model = {
        "vision_encoder": {"name": "clip", "checkpoint": str(tiny_encoder)},
        "image_splitter": "pad",
        "connector": "mlp",
        "language_model": {"name": "llama", "checkpoint": str(tiny_language_model)},
        "conversation": "chatml",
    }
    found = {}
    for kind, tuner in KINDS.items():
        stage = {
            "tuner": tuner,
            "data": {"sources": [str(rows)]},
            "lr": 1e-2,
            "max_steps": 3,
            "batch": {"size": 14},  # every row, so that a step's loss is that of the whole data
            "schedule": {"warmup_ratio": 0.0},
            "precision": "fp32",
            "checkpoints": {"every": 2},
        }
        lensmith.train({"model": model, "stages": {"tune": stage}}, output=folder / "run")
        place = folder / kind / NAMES[kind]
        place.parent.mkdir()
        shutil.move(folder / "run" / "checkpoints" / "tune" / "step-00000002", place)
        losses = [json.loads(x)["loss"] for x in (folder / "run" / "metrics" / "tune.jsonl").read_text().splitlines()]
        assert losses[2] != losses[1]
        found[kind] = (place, losses[2])
        shutil.rmtree(folder / "run")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_model_of_that_step(checkpoints: dict[str, tuple[Path, float]], rows: Path, kind: str) -> None:
    place, expected = checkpoints[kind]
    model = lensmith.load(place)
    mixture = Mixture(DataSpec.model_validate({"sources": [str(rows)]}))
    tokenizer = model.language_model.tokenizer
    reader = RowReader(mixture, model.conversation, tokenizer, 256, model.pictures)
    batch = collate([reader.sample(index) for index in range(len(mixture))], tokenizer.pad_id)
    with torch.no_grad():
        assert model(batch).item() / batch.target_count == pytest.approx(expected, rel=1e-5)
    assert isinstance(model.generate(Image.new("RGB", (20, 20)), "What colour is it?"), str)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_starts_from_it(
    checkpoints: dict[str, tuple[Path, float]], spec: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    """Without what only a resumed run needs."""
    place, _ = checkpoints[kind]
    alone = shutil.copytree(place, tmp_path / "alone", ignore=shutil.ignore_patterns("resume*"))
    spec["model"]["connector"] = "mlp"
    spec["stages"] = {"align": {**spec["stages"]["align"], "max_steps": 1}}
    (artifact,) = lensmith.train({**spec, "start_from": str(alone)}, output=tmp_path / "run")
    shutil.rmtree(alone)
    lensmith.load(artifact)


def test_the_command_asks_no_network(checkpoints: dict[str, tuple[Path, float]], tmp_path: Path) -> None:
    place, _ = checkpoints["lora"]
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    arguments = ["generate", place, "-i", tmp_path / "red.png", "-p", "What colour is it?", "--max-new-tokens", "3"]
    ended = subprocess.run(
        [sys.executable, "-m", "lensmith.cli", *map(str, arguments)],
        env=environment | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    model = lensmith.load(place)
    options = lensmith.GenerationOptions(max_new_tokens=3)
    assert ended.stdout == model.generate(tmp_path / "red.png", "What colour is it?", options) + "\n"
