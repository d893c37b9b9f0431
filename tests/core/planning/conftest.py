"""The published models' shapes, from the configs that lie beside the shipped recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith.spec import installed, recipes

LANGUAGE_MODELS = {
    "7b": "vicuna-7b-v1.5.json",
    "13b": "vicuna-13b-v1.5.json",
    "33b": "vicuna-33b-v1.3.json",
    "65b": "llama-65b.json",
}

ModelData = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def configs() -> Path:
    """The folder of architecture configs."""
    return recipes(installed())["llava-1.5-7b"].parent / "configs"


@pytest.fixture
def llava(configs: Path, tmp_path: Path) -> ModelData:
    """`llava("7b", connector="mlp", vocabulary=32064)`: the `model` section of a spec without checkpoints."""

    def data(
        size: str, connector: Any = "linear", vocabulary: int | None = None, select_layer: int = -2
    ) -> dict[str, Any]:
        language = configs / LANGUAGE_MODELS[size]
        if vocabulary is not None:
            changed = json.loads(language.read_text()) | {"vocab_size": vocabulary}
            language = tmp_path / f"{size}-{vocabulary}.json"
            language.write_text(json.dumps(changed))
        encoder = configs / "clip-vit-large-patch14-336.json"
        return {
            "vision_encoder": {"name": "clip", "config": str(encoder), "select_layer": select_layer},
            "image_splitter": "square",
            "connector": connector,
            "language_model": {"name": "llama", "config": str(language)},
        }

    return data
