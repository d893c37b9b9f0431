"""Chosen parts and layers move, at their own rates; nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lensmith
from lensmith.errors import SpecError
from lensmith.spec.build import load_spec
from lensmith.training.optimizer import build_optimizer

RANGES = {
    "name": "full",
    "connector": {"lr": 3e-3, "weight_decay": 0.1},
    "language_model": [{"layers": "2-3", "lr": 1e-3, "weight_decay": 0.0}, {"layers": "head", "lr": 2e-3}],
    "vision_encoder": {"layers": "1", "lr": 4e-3},
}


def test_only_what_is_named_moves(
    stages: Callable[..., Any], wide_language_model: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    lensmith.train(stages(tune=RANGES), output=tmp_path)
    base, trained = (
        load_file(f / "model.safetensors") for f in (wide_language_model, tmp_path / "tune/language_model")
    )
    moved = {name for name, tensor in trained.items() if not torch.equal(tensor, base[name])}
    assert moved == {n for n in base if n.startswith(("model.layers.2.", "model.layers.3.", "lm_head"))}
    base, trained = (load_file(f / "model.safetensors") for f in (tiny_encoder, tmp_path / "tune/vision_encoder"))
    named = {n.removeprefix("vision_model."): t for n, t in base.items()}
    moved = {n for n, t in trained.items() if not torch.equal(t, named[n.removeprefix("vision_model.")])}
    assert moved
    assert all("encoder.layers.1." in name for name in moved)
    assert all(p.numel() for p in lensmith.load(tmp_path / "tune").parameters())


def test_groups_carry_rates_and_decay(prepared: Callable[..., Any], stages: Callable[..., Any]) -> None:
    model, tuner, planned = prepared(RANGES)
    groups = tuner.groups(model)
    told = {g.name: (g.lr, g.weight_decay) for g in groups}
    assert told == {
        "connector": (3e-3, 0.1),
        "vision_encoder 1": (4e-3, None),
        "language_model 2-3": (1e-3, 0.0),
        "language_model head": (2e-3, None),
    }
    assert sorted(n for g in groups for n in g.names) == sorted(p.name for p in planned)
    stage = load_spec(stages(tune=RANGES)).stages["tune"]
    optimizer = build_optimizer(model, groups, stage)
    assert {g["name"]: g["weight_decay"] for g in optimizer.param_groups if "no decay" not in g["name"]}[
        "connector"
    ] == 0.1


def test_rates_fall_from_layer_to_layer(prepared: Callable[..., Any]) -> None:
    tuner = {"name": "full", "connector": False, "language_model": {"lr": 1e-3, "layer_decay": 0.5}}
    model, real, planned = prepared(tuner)
    groups = real.groups(model)
    rates = {group.name.removeprefix("language_model "): group.lr for group in groups}
    assert rates == {"embeddings": 6.25e-5, "0": 1.25e-4, "1": 2.5e-4, "2": 5e-4, "3": 1e-3, "head": 1e-3}
    assert sorted(n for g in groups for n in g.names) == sorted(p.name for p in planned)


def test_the_part_s_rate_is_that_of_entries_without(prepared: Callable[..., Any]) -> None:
    entries = [{"layers": "0", "lr": 1e-3}, {"layers": "rest"}]
    model, tuner, _ = prepared({"name": "full", "language_model": entries, "language_model_lr": 7e-4})
    assert [g.lr for g in tuner.groups(model) if g.name.startswith("language")] == [1e-3, 7e-4]


@pytest.mark.parametrize(
    ("tuner", "message"),
    [
        ({"language_model": {"layers": "2-9"}}, "language_model: layers 2-9: there is no layer 4; it has 0-3"),
        ({"vision_encoder": {"layers": "2"}}, "vision_encoder: layers 2: there is no layer 2; it has 0-1"),
        ({"language_model": {"layrs": "2"}}, "language_model.0.layrs: there is no such field. Did you mean 'layers'"),
        ({"connector": False, "language_model": False}, "nothing would train"),
    ],
)
def test_a_check_says_what_is_wrong(stages: Callable[..., Any], tuner: dict[str, Any], message: str) -> None:
    from lensmith.spec.check import checked

    with pytest.raises(SpecError) as caught:
        checked(stages(tune={"name": "full", **tuner}))
    assert message in str(caught.value)
