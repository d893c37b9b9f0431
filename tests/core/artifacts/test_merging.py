"""Merging proves itself on the written artifact, or leaves nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith import merging
from lensmith.errors import ArtifactError
from lensmith.interfaces.tuner import Tuner


def logits(model: lensmith.MultimodalModel) -> torch.Tensor:
    return torch.cat(merging.logits(model, merging.probes(model, 9)))


def test_a_merged_artifact_answers_the_same_and_stands_alone(trained: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    done = lensmith.merge(trained / "tune", tmp_path / "merged")
    assert (done.dtype, done.parts) == ("float32", ("language_model",))
    assert done.difference <= 1e-5
    assert done.positions > 30
    original, merged = lensmith.load(trained / "tune"), lensmith.load(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), logits(original), rtol=0, atol=1e-5)
    question = [(None, "What colour is it?"), (trained.parent / "none", "")][:1]
    assert merged.generate_batch(question) == original.generate_batch(question)
    manifest = json.loads((tmp_path / "merged" / "manifest.json").read_text())
    assert (manifest["tuner"], manifest["weights"]) == (None, ["language_model"])
    assert manifest["merged"]["tuner"]["name"] == "lora"
    assert manifest["stage"]["name"] == "tune"
    assert not any("lora_" in name for name, _ in merged.named_parameters())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged" / "language_model").eval()
    ids = torch.arange(5, 20)[None]
    with torch.no_grad():
        ours = original.language_model.network.eval()(ids).logits
        torch.testing.assert_close(plain(ids).logits, ours, rtol=0, atol=1e-5)


def test_in_half_precision(trained: Path, tmp_path: Path) -> None:
    done = lensmith.merge(trained / "tune", tmp_path / "merged", dtype=torch.bfloat16)
    assert (done.dtype, done.tolerance) == ("bfloat16", 8e-2)
    assert 0 < done.difference < 2e-2  # measured: 5e-3
    assert next(lensmith.load(tmp_path / "merged", dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16


class TestRefusals:
    """Each leaves the folder as it was."""

    @pytest.fixture
    def output(self, tmp_path: Path) -> Any:
        yield tmp_path / "merged"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("amount", "told"),
        [(1.0, r"was not merged: a logit moved by .* nothing was written"), (float("nan"), "that are not finite")],
    )
    def test_a_weight_that_was_overwritten_while_merging(
        self, trained: Path, output: Path, monkeypatch: pytest.MonkeyPatch, amount: float, told: str
    ) -> None:
        original = self.tuner_of(trained).merge

        def broken(tuner: Tuner, model: Any) -> None:
            original(tuner, model)
            with torch.no_grad():
                model.language_model.network.model.layers[1].mlp.up_proj.weight[3] += amount

        monkeypatch.setattr(self.tuner_of(trained), "merge", broken)
        with pytest.raises(ArtifactError, match=told):
            lensmith.merge(trained / "tune", output)

    def test_adapters_that_were_dropped(self, trained: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A merge that takes the adapters out without folding them in: the base answers, not the tuned model."""

        def dropped(tuner: Any, model: Any) -> None:
            for injected in tuner._injected.values():
                injected.wrapper.unload()

        monkeypatch.setattr(self.tuner_of(trained), "merge", dropped)
        with pytest.raises(ArtifactError, match="a logit moved by"):
            lensmith.merge(trained / "tune", output)

    def test_a_weight_that_was_written_wrong(
        self, trained: Path, output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Right in memory, wrong on the disk."""
        from lensmith import artifacts

        def written(folder: Path, model: Any, *rest: Any) -> None:
            with torch.no_grad():
                model.connector.load_state_dict({n: -t for n, t in model.connector.state_dict().items()})
            original(folder, model, *rest)

        original = artifacts.write_artifact
        monkeypatch.setattr(artifacts, "write_artifact", written)
        with pytest.raises(ArtifactError, match="a logit moved by"):
            lensmith.merge(trained / "tune", output)

    @pytest.mark.parametrize("stage", ["align", "whole"])
    def test_nothing_to_merge(self, trained: Path, output: Path, stage: str) -> None:
        with pytest.raises(ArtifactError, match=f"{stage} has no adapters, so there is nothing to merge"):
            lensmith.merge(trained / stage, output)

    def tuner_of(self, trained: Path) -> Any:
        return type(lensmith.load(trained / "tune").tuner)


def test_the_command(trained: Path, tmp_path: Path) -> None:
    merge = [sys.executable, "-m", "lensmith.cli", "merge", str(trained / "tune"), str(tmp_path / "merged")]
    done = subprocess.run(merge, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder, told = done.stdout.splitlines()
    assert folder == str(tmp_path / "merged")
    assert told.startswith("logits moved by ")
    assert told.endswith("(tolerance in float32: 1e-03); holds language_model in full")
    with pytest.raises(ArtifactError, match="merged exists already"):
        lensmith.merge(trained / "tune", tmp_path / "merged")


def test_a_base_that_moved(trained: Path, tmp_path: Path) -> None:
    base = shutil.copytree(trained.parent / "bases" / "language_model", tmp_path / "elsewhere")
    done = lensmith.merge(trained / "tune", tmp_path / "merged", overrides=[f"language_model.checkpoint={base}"])
    assert done.difference <= 1e-5
