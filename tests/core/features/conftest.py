"""A model with its rows and a cache folder, without DeepSpeed: what a stage does before its first step."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lensmith import parts
from lensmith.assembly import assemble
from lensmith.data.batch import Batch, collate
from lensmith.data.reader import RowReader
from lensmith.data.sources import Mixture
from lensmith.features.filling import attach
from lensmith.features.folders import Lock
from lensmith.model import MultimodalModel
from lensmith.spec.build import load_spec
from lensmith.training import distributed

NOISE = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass
class Work:
    """A stage that is about to begin.

    Args:
        spec: of model and stage, whose cache is on.
        said: what the user was told.
    """

    spec: dict[str, Any]
    said: list[str] = field(default_factory=list)
    encoded: int = 0

    def __post_init__(self) -> None:
        distributed.start()
        loaded = load_spec(self.spec)
        self.stage = loaded.stages["align"]
        self.model: MultimodalModel = assemble(loaded)
        self.model.vision_encoder.requires_grad_(False)
        self.reader = RowReader(
            Mixture(self.stage.data),
            parts.conversation(loaded.model, self.stage),
            self.model.language_model.tokenizer,
            256,
            self.model.pictures,
        )
        self.model.vision_encoder.register_forward_pre_hook(self._count)

    def _count(self, module: Any, arguments: tuple[torch.Tensor]) -> None:
        self.encoded += len(arguments[0])

    def attach(self, rows: Sequence[int] | None = None) -> Lock:
        """What a stage does before its first step."""
        self.encoded = 0
        return attach(self.model, self.reader, rows or range(len(self.reader.mixture)), self.stage, self.said.append)

    def batch(self, rows: Sequence[int] | None = None) -> Batch:
        """Rows as the stage would see them."""
        samples = [self.reader.sample(i) for i in rows or range(len(self.reader.mixture))]
        return collate(samples, self.reader.tokenizer.pad_id)

    def features(self, row: int) -> torch.Tensor:
        """Those of a row's pictures, from the cache."""
        found = self.batch([row]).features
        assert found is not None
        return found


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Any:
    """So that sums are made in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Noise of several sizes, files old enough to be trusted, and rows of none, one and several pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(NOISE):
        Image.effect_noise((30 + 17 * number, 70 - 5 * number), 80 + number).convert("RGB").save(folder / f"{name}.png")
        age(folder / f"{name}.png")
    shown: list[list[str]] = [[name] for name in NOISE[:6]]
    shown += [["one", "seven"], [], ["eight", "nine", "eight"]]
    lines = []
    for number, names in enumerate(shown):
        question = "<image>\n" * len(names) + f"What is number {number}?"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "noise " * (number % 3 + 1)}]
        images = [f"{name}.png" for name in names]
        lines.append({"id": str(number), "conversations": turns} | ({"image": images} if images else {}))
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def encoder(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(tiny_encoder, tmp_path / "encoder")


@pytest.fixture
def work(model_spec: dict[str, Any], pictures: Path, encoder: Path, tmp_path: Path) -> Callable[..., Work]:
    """Makes a stage; keywords are parts of the model, or settings of the cache or the stage's data."""

    def make(*, cache: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **model: Any) -> Work:
        spec = {
            "model": copy.deepcopy(model_spec) | {"vision_encoder": {"name": "clip", "checkpoint": str(encoder)}},
            "stages": {
                "align": {
                    "tuner": "frozen",
                    "data": {"sources": [str(pictures / "rows.jsonl")], **(data or {})},
                    "cache": {"folder": str(tmp_path / "cache"), **(cache or {})},
                    "precision": "fp32",
                }
            },
        }
        spec["model"].update(model)
        return Work(spec)

    return make


def age(path: Path) -> None:
    """Let a file be an hour old, as far as one can; the system sets the time of its last change of all."""
    status = path.stat()
    os.utime(path, (status.st_atime - 3600, status.st_mtime - 3600))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were just written count as old ones."""
    monkeypatch.setattr("lensmith.features.filling._SETTLED", -1.0)
