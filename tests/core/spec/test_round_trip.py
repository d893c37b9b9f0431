"""A spec that is dumped reads back to the same spec, whatever it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lensmith import RunSpec, load_spec
from lensmith.spec import dump, installed, recipes

OVERRIDES = [
    [],
    ["model.connector=linear"],
    ["model.connector={name: mlp, depth: 1, input_norm: true, output_scale: embeddings}"],
    ["model.image_splitter={name: pad, color: [0, 127, 255]}"],
    ["model.image_splitter=square", "model.conversation="],
    ["model.vision_encoder={name: timm, model: resnet18}"],
    ["model.language_model.checkpoint=owner/name"],
    ["stages={}"],
    ["stages.tune.tuner={name: full}", "stages.tune.conversation=plain"],
    ["stages.tune.data.sources=[{path: a, images: b, weight: 0.25, fraction: 0.5, seed: 7}]", "output=~/x"],
    ["stages.tune.optimizer={betas: [0.5, 0.75], eps: 1e-12}", "stages.tune.max_steps=3", "start_from=before"],
]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_dumped_and_read_again(
    overrides: list[str], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_spec(base, overrides)
    monkeypatch.chdir(tmp_path)  # nothing in the dump may depend on where it is read
    again = load_spec(dump(spec))
    assert again == spec
    assert dump(again) == dump(spec)
    assert load_spec(spec) == spec


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_through_a_file_in_another_folder(suffix: str, base: Path, tmp_path: Path) -> None:
    spec = load_spec(base)
    file = tmp_path / "other" / f"resolved.{suffix}"
    file.parent.mkdir()
    data = dump(spec)
    file.write_text(json.dumps(data) if suffix == "json" else yaml.safe_dump(data, sort_keys=False))
    assert load_spec(file) == spec


def test_a_dump_is_plain_and_whole(base: Path) -> None:
    data = dump(load_spec(base))
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["model"]["connector"] == {
        "name": "mlp",
        "depth": 3,
        "activation": "gelu",
        "input_norm": False,
        "output_scale": "none",
        "checkpoint": None,
    }
    assert data["stages"]["align"]["data"]["sources"] == [
        {"path": str(base.parent / "rows.jsonl"), "images": None, "weight": 1.0, "fraction": 1.0, "seed": 0}
        | {"missing_images": "error", "ignore": []}
    ]
    assert list(data["stages"]) == ["align", "tune"]


def test_a_tiny_spec(spec: dict[str, Any]) -> None:
    loaded = load_spec(spec)
    assert isinstance(loaded, RunSpec)
    assert load_spec(dump(loaded)) == loaded


@pytest.mark.parametrize("name", sorted(recipes(installed())))
def test_a_recipe_with_its_rows(name: str) -> None:
    stages = {stage: {"data": {"sources": "rows.jsonl"}} for stage in load_spec(name).stages}
    loaded = load_spec({"extends": name, "stages": stages})
    assert load_spec(dump(loaded)) == loaded


def test_reading_changes_no_mapping(spec: dict[str, Any]) -> None:
    before = json.dumps(spec)
    load_spec(spec, ["model.connector.depth=5", "stages.align.data.sources.0.weight=2"])
    assert json.dumps(spec) == before
