"""Stages after stages: what goes on training, what is folded and said, and what stands still."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith.errors import SpecError
from lensmith.spec.build import load_spec
from lensmith.spec.check import checked

from .conftest import logits

LORA = {"name": "lora", "rank": 4}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "change",
    [{"connector_lr": 1e-12}, {"dropout": 0.3}, {"alpha": 8.0}, {"init": "gaussian"}, {"connector": False}],
    ids=str,
)
def test_T10_settings_that_only_say_how_to_train_leave_the_adapter(
    stages: Callable[..., dict[str, Any]], tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = stages(one=LORA, two={**LORA, **change})
    lensmith.train(spec, output=tmp_path)
    assert lensmith.artifacts.Manifest.read(tmp_path / "two").data["weights"] == ["adapter"]
    assert "is folded into the weights" not in said(capsys)
    spec["stages"]["two"]["lr"] = 1e-12
    begun = lensmith.train(spec, output=tmp_path / "again", max_steps=1)[-1]
    before = lensmith.load(lensmith.train(stages(one=LORA), output=tmp_path / "plain", max_steps=1)[-1])
    assert torch.allclose(logits(lensmith.load(begun)), logits(before), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"alpha": 3.0}, "tuner.alpha was 8.0 and is 3.0"),
        ({"rank": 2}, "tuner.alpha was 8.0 and is 4.0; tuner.rank was 4 and is 2"),
        ({"targets": ["q_proj"]}, "tuner.targets was"),
        ({"rslora": True}, "tuner.rslora was False and is True"),
    ],
    ids=str,
)
def test_T10_what_must_be_folded_is_said(
    stages: Callable[..., dict[str, Any]],
    tmp_path: Path,
    change: dict[str, Any],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lensmith.train(stages(one=LORA, two={**LORA, **change}), output=tmp_path, max_steps=1)
    assert f"is folded into the weights, which this stage's artifact holds in full: {told}" in said(capsys)
    weights = lensmith.artifacts.Manifest.read(tmp_path / "two").data["weights"]
    assert weights == ["adapter", "language_model"]


def test_T11_quantising_anew_is_said(
    stages: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    qlora = {"name": "qlora", "rank": 4}
    lensmith.train(stages(one=qlora, two={**qlora, "dropout": 0.1}), output=tmp_path / "same", max_steps=1)
    assert "rounded anew" not in said(capsys)
    lensmith.train(stages(one=qlora, two={**qlora, "rank": 2}), output=tmp_path / "other", max_steps=1)
    told = said(capsys)
    assert "tuner.rank was 4 and is 2" in told
    assert "28 are rounded anew, by" in told


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_T12_a_prefix_with_recomputed_blocks_is_refused_before_anything_loads(
    stages: Callable[..., dict[str, Any]], zero: int
) -> None:
    spec = stages(tune={"name": "peft", "method": "prefix_tuning", "config": {"num_virtual_tokens": 3}})
    spec["stages"]["tune"] |= {"activation_checkpointing": True, "deepspeed": {"zero": zero}}
    with pytest.raises(SpecError, match=r"stages\.tune\.tuner: prefix_tuning hands its keys .* without one; set act"):
        checked(spec)


@pytest.mark.parametrize(
    "tuner",
    [
        {"name": "lora", "rank": 2, "targets": ["lm_head"]},
        {"name": "lora", "rank": 2, "targets": ["all", "lm_head"]},
        {"name": "lora", "rank": 2, "targets": ["q_proj", "lm_head"], "dora": True},
        {"name": "peft", "method": "oft", "config": {"target_modules": ["lm_head"], "oft_block_size": 4}},
    ],
    ids=["alone", "beside all", "dora", "oft"],
)
def test_T12_the_output_head_trains_where_it_is_named(
    stages: Callable[..., dict[str, Any]], prepared: Callable[..., Any], tmp_path: Path, tuner: dict[str, Any]
) -> None:
    model, _, planned = prepared(tuner)
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {p.name for p in planned} == trains
    assert any(".lm_head." in name for name in trains)
    [artifact] = lensmith.train(stages(tune=tuner), output=tmp_path / "run")
    loaded = lensmith.load(artifact, dtype=torch.float32)
    assert not torch.allclose(logits(loaded), logits(lensmith.assemble(stages(tune=tuner))), atol=1e-3)
    merged = lensmith.merge(artifact, tmp_path / "merged", dtype=torch.float32)
    assert torch.allclose(logits(lensmith.load(merged.folder)), logits(loaded), atol=1e-4)


def test_T12_all_leaves_the_head_alone(prepared: Callable[..., Any]) -> None:
    model, _, _ = prepared({"name": "lora", "rank": 2})
    assert not any("lm_head" in name for name, p in model.named_parameters() if p.requires_grad)


class TestFrozenLanguageModel:
    """One with dropout 0.5, which a frozen part must not draw."""

    @pytest.fixture
    def spec(self, stages: Callable[..., dict[str, Any]], wide_language_model: Path, tmp_path: Path) -> Any:
        import json
        import shutil

        folder = tmp_path / "dropping"
        shutil.copytree(wide_language_model, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))

        def make(tuner: Any, **stage: Any) -> dict[str, Any]:
            spec = stages(tune=tuner)
            spec["model"]["language_model"] = {"name": "llama", "checkpoint": str(folder)}
            spec["stages"]["tune"] |= stage
            return spec

        return make

    def losses(self, folder: Path) -> list[float]:
        import json

        return [json.loads(line)["loss"] for line in (folder / "metrics" / "tune.jsonl").read_text().splitlines()]

    @pytest.mark.parametrize("recomputed", [False, True])
    def test_T12_draws_nothing(
        self, spec: Any, stages: Callable[..., dict[str, Any]], tmp_path: Path, recomputed: bool
    ) -> None:
        settings = {"activation_checkpointing": recomputed}
        lensmith.train(spec("frozen", **settings), output=tmp_path / "dropping")
        plain = stages(tune="frozen")
        plain["stages"]["tune"] |= settings
        lensmith.train(plain, output=tmp_path / "plain")
        assert self.losses(tmp_path / "dropping") == pytest.approx(self.losses(tmp_path / "plain"), rel=1e-6)

    def test_T12_activations_of_a_frozen_model_are_recomputed(self, spec: Any) -> None:
        loaded = load_spec(spec("frozen"))
        tuner = lensmith.implementation(lensmith.Kind.TUNER, loaded.stages["tune"].tuner)(loaded.stages["tune"].tuner)
        model = lensmith.assemble(loaded, tuner=tuner)
        tuner.prepare(model)
        assert model.checkpoint_activations() == ["language_model"]
        model.train()
        calls: list[int] = []
        for block in model.language_model.network.model.layers:
            block.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        from lensmith.testing.models import batch

        model(batch(model, pictures=True)).backward()
        assert len(calls) == 2 * 4, "each block runs forward, and once more in the backward pass"

    def test_T12_one_that_trains_draws(self, spec: Any, stages: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
        lensmith.train(spec({"name": "full"}), output=tmp_path / "dropping")
        lensmith.train(stages(tune={"name": "full"}), output=tmp_path / "plain")
        assert self.losses(tmp_path / "dropping")[0] != self.losses(tmp_path / "plain")[0]
