"""A language model of its first blocks alone (`layers`): planned, saved, trained, gone on from and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

import lensmith
from lensmith import ArtifactError, SpecError


@pytest.fixture
def spec(tiny_encoder: Path, tiny_language_model: Path) -> dict[str, Any]:
    return {
        "model": {
            "vision_encoder": {"name": "clip", "checkpoint": str(tiny_encoder)},
            "image_splitter": "square",
            "connector": "mlp",
            "language_model": {"name": "llama", "checkpoint": str(tiny_language_model), "layers": 1},
            "conversation": "chatml",
        }
    }


def stage(tuner: Any, folder: Path) -> dict[str, Any]:
    row = {"id": "a", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    data = {"sources": [str(folder / "rows.jsonl")]}
    return {"tuner": tuner, "data": data, "batch": {"size": 1}, "max_steps": 2, "lr": 1e-2, "precision": "fp32"}


def test_the_plan_counts_the_blocks_that_there_are(spec: dict[str, Any]) -> None:
    cut = lensmith.plan(spec)
    spec["model"]["language_model"].pop("layers")
    whole = lensmith.plan(spec)
    model = lensmith.assemble({**spec, "model": {**spec["model"]}})
    block = sum(p.numel() for p in model.language_model.network.get_decoder().layers[1].parameters())
    parts = (plan.parameters["language_model"] for plan in (cut, whole))
    assert block == -(next(parts) - next(parts))


def test_more_blocks_than_there_are_is_told_by_check(spec: dict[str, Any]) -> None:
    spec["model"]["language_model"]["layers"] = 3
    with pytest.raises(SpecError, match=r"`layers` is 3 and .* has 2; set it to 2 or fewer"):
        lensmith.plan(spec)


@pytest.mark.parametrize("to", ["hf", "llava"])
@pytest.mark.parametrize("held", [True, False])
def test_exports_hold_the_blocks_that_there_are(spec: dict[str, Any], to: str, held: bool, tmp_path: Path) -> None:
    """Whether the artifact holds the language model or names its checkpoint; the export compares the logits itself."""
    model = lensmith.assemble(spec)
    if held:
        model.changed.add("language_model")
    artifact = model.save(tmp_path / "artifact")
    lensmith.export(artifact, tmp_path / "out", to=to)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.get("text_config", config)["num_hidden_layers"] == 1
    names = load_file(tmp_path / "out" / "model.safetensors")
    assert not [name for name in names if "layers.1." in name and "vision" not in name]
    if to == "hf":
        loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
        assert len(loaded.model.language_model.layers) == 1
    again = lensmith.import_checkpoint(tmp_path / "out", tmp_path / "again").folder
    assert lensmith.load(again).language_model.shape.layers == 1


def test_a_trained_one_goes_on_as_what_it_is(spec: dict[str, Any], tmp_path: Path) -> None:
    spec["stages"] = {"one": stage("full", tmp_path), "two": stage("full", tmp_path)}
    lensmith.train(spec, output=tmp_path / "run")
    config = json.loads((tmp_path / "run" / "two" / "language_model" / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    spec["stages"] = {"three": stage("full", tmp_path)}
    spec["start_from"] = str(tmp_path / "run" / "two")
    lensmith.train(spec, output=tmp_path / "further")
    assert lensmith.load(tmp_path / "further" / "three").language_model.shape.layers == 1
    spec["model"]["language_model"].pop("layers")
    with pytest.raises((ArtifactError, SpecError), match=r"model\.language_model\.layers"):
        lensmith.train(spec, output=tmp_path / "other")


def test_adapters_on_a_cut_base(spec: dict[str, Any], tmp_path: Path) -> None:
    """Merged they are exported; alone PEFT would put them on the whole base, whose last blocks they do not know."""
    spec["stages"] = {"adapt": stage({"name": "lora", "rank": 2}, tmp_path)}
    (artifact,) = lensmith.train(spec, output=tmp_path / "run")
    with pytest.raises(SpecError, match="the first 1 blocks of a base that PEFT would load whole; merge"):
        lensmith.export(artifact, tmp_path / "peft", to="peft")
    lensmith.export(artifact, tmp_path / "lora", to="llava")
    assert json.loads((tmp_path / "lora" / "config.json").read_text())["num_hidden_layers"] == 1
    lensmith.export(artifact, tmp_path / "hf", to="hf", merge=True)
