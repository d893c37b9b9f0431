"""Tokens that a spec adds: their rows are there before anything is sharded, train with their model, are published."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import lensmith

NEW = ["<begin>", "<finish>"]
EMBEDDINGS = "language_model.network.model.embed_tokens.weight"
HEAD = "language_model.network.lm_head.weight"


@pytest.fixture
def spec(model_spec: dict[str, Any], rows: Path, lab: Any) -> dict[str, Any]:
    """The tiny model with two tokens more: frozen, adapters on it, all of it; one step each."""
    changed = copy.deepcopy(model_spec)
    changed["language_model"]["add_tokens"] = NEW
    stage = {"data": {"sources": [str(rows)]}, "lr": 1e-2, "max_steps": 1, "schedule": {"warmup_ratio": 0.0}}
    return dict(
        lab.stages(
            {"model": changed, "stages": {"any": {"data": stage["data"]}}},
            align={**stage, "tuner": "frozen"},
            tune={**stage, "tuner": {"name": "lora", "rank": 2}},
            whole={**stage, "tuner": "full"},
        )
    )


def test_under_zero_3_on_two_ranks(
    lab: Any, spec: dict[str, Any], tiny_language_model: Path, tmp_path: Path, write_spec: Callable[[Any], Path]
) -> None:
    stages = {name: {**spec["stages"][name], "deepspeed": {"zero": 3}} for name in ("align", "whole")}
    file = write_spec({**spec, "stages": stages})
    code, out, err = lab.finish(lab.command("train", file, "--nproc", "2", "--output", tmp_path / "run"), timeout=400)
    assert code == 0, f"{out}\n{err}"
    base = load_file(tiny_language_model / "model.safetensors")
    old = {EMBEDDINGS: base["model.embed_tokens.weight"], HEAD: base["lm_head.weight"]}
    length = len(old[HEAD])

    artifact = tmp_path / "run" / "align"
    assert not (artifact / "language_model").exists(), "rows that follow from the base are not stored"
    model = lensmith.load(artifact)
    weights = dict(model.named_parameters())
    for name, then in old.items():
        mean = then.double().mean(0).float()
        assert torch.equal(weights[name], torch.cat([then, mean.expand(2, -1)])), name
    tokenizer = model.language_model.tokenizer
    assert [tokenizer.token_id(token) for token in NEW] == [length, length + 1]
    assert json.loads((artifact / "manifest.json").read_text())["model"]["language_model"]["add_tokens"] == NEW

    folder = tmp_path / "run" / "whole" / "language_model"
    trained = load_file(folder / "model.safetensors")["lm_head.weight"]
    mean = old[HEAD].double().mean(0).float()
    assert trained.shape == (length + 2, 32)
    assert not torch.isclose(trained[length:], mean.expand(2, -1)).all(1).any(), "their logits were pushed down"
    model = lensmith.load(tmp_path / "run" / "whole")
    assert torch.equal(dict(model.named_parameters())[HEAD], trained)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[5, length, 7, length + 1]])
    steps, ones = torch.arange(4)[None], torch.ones(1, 4, dtype=torch.long)
    ours = model.language_model
    torch.testing.assert_close(ours.head(ours(ours.embed(ids), steps, ones)), plain(ids).logits, rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(NEW) == [length, length + 1]


def test_a_loaded_model_is_what_was_saved(lab: Any, spec: dict[str, Any], tmp_path: Path) -> None:
    run = lab.train({**spec, "stages": {"tune": spec["stages"]["tune"]}}, tmp_path / "run")
    model = lensmith.load(run.folder / "tune")
    again = lensmith.load(model.save(tmp_path / "again"))
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name
    merged = lensmith.load(run.folder / "tune", merge=True)
    whole = lensmith.load(merged.save(tmp_path / "merged"))
    assert (tmp_path / "merged" / "language_model").is_dir()
    for (name, one), other in zip(merged.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other), name
