"""One trained artifact of each kind, and copies of them to damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lensmith


@pytest.fixture(scope="session")
def trained(
    tiny_encoder: Path, tiny_language_model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run with the stages `align` (connector), `tune` (adapters), and beside it `whole` (everything)."""
    folder = tmp_path_factory.mktemp("trained")
    # Bases of its own, which tests may move.
    encoder = shutil.copytree(tiny_encoder, folder / "bases" / "encoder")
    language_model = shutil.copytree(tiny_language_model, folder / "bases" / "language_model")
    common = {
        "data": {"sources": [str(rows)]},
        "lr": 1e-2,
        "batch": {"size": 7},
        "precision": "fp32",
        "schedule": {"warmup_ratio": 0.0},
    }
    model = {
        "vision_encoder": {"name": "clip", "checkpoint": str(encoder)},
        "image_splitter": "pad",
        "connector": "mlp",
        "language_model": {"name": "llama", "checkpoint": str(language_model)},
        "conversation": "chatml",
    }
    chain = {"align": {**common, "tuner": "frozen"}, "tune": {**common, "tuner": {"name": "lora", "rank": 4}}}
    lensmith.train({"model": model, "stages": chain}, output=folder / "run")
    whole = {"whole": {**common, "tuner": {"name": "full", "vision_encoder": True}}}
    lensmith.train({"model": model, "stages": whole}, output=folder / "other")
    shutil.move(folder / "other" / "whole", folder / "run" / "whole")
    return folder / "run"


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a stage's artifact."""

    def copy(stage: str) -> Path:
        return Path(shutil.copytree(trained / stage, tmp_path / stage))

    return copy


@pytest.fixture
def edit() -> Callable[..., None]:
    """Change a manifest through a function that gets its data."""

    def change(artifact: Path, how: Callable[[dict[str, Any]], None]) -> None:
        file = artifact / "manifest.json"
        data = json.loads(file.read_text())
        how(data)
        file.write_text(json.dumps(data))

    return change
