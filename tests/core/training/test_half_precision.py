"""bf16: small steps add up, because the optimiser keeps weights of its own in full precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith


@pytest.mark.parametrize("zero", [0, 2])
def test_steps_below_the_rounding_are_not_lost(lab: Any, spec: dict[str, Any], tmp_path: Path, zero: int) -> None:
    stage = {
        "tuner": "frozen",
        "lr": 5e-5,
        "schedule": {"decay": "constant", "warmup_ratio": 0.0},
        "max_steps": 40,
        "precision": "bf16",
        "deepspeed": {"zero": zero},
    }
    run = lab.train(lab.stages(spec, align=stage), tmp_path / "run")
    before = lensmith.assemble(spec, seed=42, dtype=torch.bfloat16).connector.state_dict()["0.weight"]
    after = run.weights("align")["connector.safetensors:0.weight"]
    assert after.dtype == torch.bfloat16
    # Around 0.15, bf16 numbers are 1e-3 apart: no single step of 5e-5 could change one.
    large = before.abs() > 0.13
    assert large.sum() > 100
    assert (after != before)[large].float().mean() > 0.3
    assert run.manifest("align")["precision"] == "bfloat16"


@pytest.mark.parametrize("zero", [1, 2])
def test_sharding_changes_nothing(lab: Any, spec: dict[str, Any], tmp_path: Path, zero: int) -> None:
    stage = {"tuner": {"name": "lora", "rank": 2}, "precision": "bf16", "batch": {"size": 4, "micro": 2}, "lr": 1e-2}
    plain = lab.train(lab.stages(spec, tune=stage), tmp_path / "plain")
    sharded = lab.train(lab.stages(spec, tune={**stage, "deepspeed": {"zero": zero}}), tmp_path / "sharded")
    # Gradients are rounded to bf16 at other places.
    assert sharded.losses("tune") == pytest.approx(plain.losses("tune"), rel=5e-3)
    assert plain.losses("tune")[-1] < plain.losses("tune")[0]


def test_resumed(lab: Any, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lensmith.training.progress import Metrics

    stage = {"tuner": {"name": "lora", "rank": 2, "dropout": 0.2}, "precision": "bf16", "lr": 1e-2, "max_steps": 8}
    whole = lab.train(lab.stages(spec, tune=stage), tmp_path / "whole")
    begun = lab.stages(spec, tune={**stage, "checkpoints": {"every": 3}})
    write = Metrics.write

    def fail(self: Metrics, entry: dict[str, Any]) -> None:
        if entry["step"] == 5:
            raise RuntimeError("power cut")
        write(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            lab.train(begun, tmp_path / "run")
    run = lab.train(begun, tmp_path / "run", resume=True)
    assert run.losses("tune") == whole.losses("tune")


@pytest.mark.parametrize("optimizer", [{"name": "adamw", "weight_decay": 0.1}, {"name": "sgd", "momentum": 0.9}])
@pytest.mark.parametrize("micro", [4, 2])
def test_T4_without_ZeRO_the_optimiser_takes_the_same_steps(
    lab: Any, spec: dict[str, Any], tmp_path: Path, optimizer: dict[str, Any], micro: int
) -> None:
    """DeepSpeed would step it once before the first step."""
    stage = {
        "tuner": {"name": "full"},
        "precision": "bf16",
        "lr": 3e-3,
        "optimizer": optimizer,
        "batch": {"size": 4, "micro": micro},
        "schedule": {"decay": "constant", "warmup_ratio": 0.0},
        "max_steps": 4,
    }
    losses = {}
    for zero in (0, 1, 2, 3):
        run = lab.train(lab.stages(spec, tune={**stage, "deepspeed": {"zero": zero}}), tmp_path / str(zero))
        losses[zero] = run.losses("tune")
    for zero in (1, 2, 3):  # gradients are rounded to bf16 at other places; one Adam step ahead differs by 3e-3
        assert losses[zero] == pytest.approx(losses[0], rel=1e-3), losses
