"""What was read for a new model is not needed for its artifact: checkpoints, configs and tokenizers may be gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import InstructBlipConfig, InstructBlipModel

import lensmith
from lensmith.data.batch import collate
from lensmith.errors import SpecError
from lensmith.generation import Question, prepare
from lensmith.spec.check import check
from lensmith_plugins.connectors.qformer_spec import TOKENIZER

from .conftest import SIZES, TEXT, VISION, bert_tokenizer, lively


@torch.no_grad()
def embeds(model: lensmith.MultimodalModel, question: str = "what colour is it ?") -> torch.Tensor:
    sample = prepare(model, Question.of(Image.new("RGB", (40, 30), "red"), question))
    return model.eval().embed(collate([sample], model.language_model.tokenizer.pad_id))


@pytest.fixture
def instruct(tmp_path: Path) -> Path:
    """An InstructBLIP for features 32 wide and a language model 32 wide, to be deleted."""
    torch.manual_seed(6)
    vision, text = {**VISION, "hidden_size": 32}, {**TEXT, "hidden_size": 32, "word_embed_proj_dim": 32}
    config = InstructBlipConfig(vision_config=vision, qformer_config=SIZES, text_config=text, num_query_tokens=5)
    lively(InstructBlipModel(config)).save_pretrained(tmp_path / "instructblip")
    bert_tokenizer().save_pretrained(tmp_path / "instructblip" / TOKENIZER)
    return tmp_path / "instructblip"


@pytest.fixture
def mm_projector(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    names = {"0.weight": (32, 32), "0.bias": (32,), "2.weight": (32, 32), "2.bias": (32,)}
    torch.save({f"model.mm_projector.{n}": torch.randn(s) for n, s in names.items()}, tmp_path / "mm_projector.bin")
    return tmp_path / "mm_projector.bin"


def test_a_projector_is_read_once(spec: dict[str, Any], mm_projector: Path, tmp_path: Path) -> None:
    spec["model"]["connector"]["checkpoint"] = str(mm_projector)
    model = lensmith.assemble(spec)
    stored = torch.load(mm_projector, weights_only=True)
    assert torch.equal(model.connector.state_dict()["2.bias"], stored["model.mm_projector.2.bias"])
    with torch.no_grad():
        model.connector.state_dict()["2.bias"].zero_()  # the artifact's weights are other ones
    expected = embeds(model)
    model.save(tmp_path / "saved")
    assert torch.equal(embeds(lensmith.load(tmp_path / "saved")), expected)
    mm_projector.unlink()
    assert torch.equal(embeds(lensmith.load(tmp_path / "saved")), expected)
    assert not (tmp_path / "saved" / "connector").exists()
    with pytest.raises(lensmith.LensmithError, match=r"mm_projector\.bin does not exist"):
        lensmith.assemble(spec)


def test_a_run_from_instructblip(spec: dict[str, Any], instruct: Path, tmp_path: Path) -> None:
    """Two stages; then the checkpoint goes, the first stage too, and the rest moves."""
    spec["model"]["connector"] = {"name": "qformer", "checkpoint": str(instruct)}
    start = lensmith.assemble(spec)
    loaded = load_file(instruct / "model.safetensors")
    assert torch.equal(start.connector.query_tokens, loaded["query_tokens"])
    assert torch.equal(start.connector.language_projection.weight, loaded["language_projection.weight"])
    for stage in spec["stages"].values():
        stage["max_steps"] = 2
    lensmith.train(spec, output=tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "tune" / "manifest.json").read_text())
    assert manifest["weights"] == ["adapter", "connector"]
    expected = embeds(lensmith.load(tmp_path / "run" / "tune"))
    assert not torch.allclose(expected, embeds(start), atol=1e-4)  # it was trained
    shutil.rmtree(instruct)
    shutil.rmtree(tmp_path / "run" / "align")
    shutil.move(tmp_path / "run" / "tune", tmp_path / "moved")
    again = lensmith.load(tmp_path / "moved")
    assert torch.equal(embeds(again), expected)
    assert not torch.allclose(embeds(again, "how many ?")[0, :9], expected[0, :9], atol=1e-4)
    # And what is saved of it, or trained on, stands on its own as well.
    again.save(tmp_path / "copy")
    stage = {**spec["stages"]["align"], "max_steps": 1}
    spec["model"]["connector"] = {"name": "qformer", "config": str(tmp_path / "moved" / "connector")}
    lensmith.train({**spec, "start_from": str(tmp_path / "moved"), "stages": {"more": stage}}, output=tmp_path / "next")
    shutil.rmtree(tmp_path / "moved")
    assert torch.equal(embeds(lensmith.load(tmp_path / "copy")), expected)
    assert torch.isfinite(embeds(lensmith.load(tmp_path / "next" / "more"))).all()


def test_a_fresh_projection_is_said(spec: dict[str, Any], instruct: Path) -> None:
    tensors = load_file(instruct / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "language_projection" not in n}, instruct / "model.safetensors")
    spec["model"]["connector"] = {"name": "qformer", "checkpoint": str(instruct)}
    with pytest.warns(UserWarning, match="has no language_projection, .* projection is fresh, train it before use"):
        lensmith.assemble(spec)


@pytest.mark.parametrize(
    ("connector", "path"),
    [
        ({"name": "mlp", "checkpoint": "gone.bin"}, "model.connector.checkpoint"),
        ({"name": "qformer", "checkpoint": "./gone"}, "model.connector"),
        ({"name": "qformer", "instruction": True, "tokenizer": "./gone"}, "model.connector.tokenizer"),
    ],
)
def test_a_missing_file_is_told_before_weights_load(spec: dict[str, Any], connector: Any, path: str) -> None:
    spec["model"]["connector"] = connector
    found = check(lensmith.load_spec(spec))
    assert [problem.path for problem in found] == [path]
    assert "gone" in found[0].message


def test_a_mistake_in_the_fields_is_a_spec_error(spec: dict[str, Any]) -> None:
    spec["model"]["connector"] = {"name": "pool", "factor": 2, "grid": [1, 1]}
    with pytest.raises(SpecError, match="give a factor or a grid, not both"):
        lensmith.load_spec(spec)
