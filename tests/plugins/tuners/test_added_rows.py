"""Rows of added tokens train beside any tuner: saved, loaded, merged and handed on; where they do not, it is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith.errors import SpecError
from lensmith.spec.check import checked

from .conftest import logits

NEW = ["<begin>", "<finish>"]
TUNERS: dict[str, dict[str, Any]] = {
    "frozen": {"name": "frozen"},
    "lora": {"name": "lora", "rank": 2},
    "head": {"name": "lora", "rank": 2, "targets": ["q_proj", "lm_head"]},
    "qlora": {"name": "qlora", "rank": 2},
    "ia3": {"name": "peft", "method": "ia3"},
    "prefix": {"name": "peft", "method": "prefix_tuning", "config": {"num_virtual_tokens": 3}},
    "layers": {"name": "full", "language_model": [{"layers": "1-2"}]},
    "encoder": {"name": "full", "language_model": False, "vision_encoder": True},
}


@pytest.fixture(params=["untied", "tied"])
def spec_of(
    request: pytest.FixtureRequest, stages: Callable[..., dict[str, Any]], wide_language_model: Path, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Stages whose rows have the new tokens in them."""
    folder = tmp_path / "base"
    shutil.copytree(wide_language_model, folder)
    if request.param == "tied":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))

    def make(**tuners: Any) -> dict[str, Any]:
        spec = stages(**tuners)
        spec["model"]["language_model"] = {"name": "llama", "checkpoint": str(folder), "add_tokens": NEW}
        spec["model"]["conversation"] = {"name": "chatml", "image_tags": NEW}
        return spec

    return make


def tables(model: Any) -> list[torch.Tensor]:
    network = model.language_model.network
    found = [network.get_input_embeddings().weight, network.get_output_embeddings().weight]
    return found if found[0] is not found[1] else found[:1]


@pytest.mark.parametrize("name", TUNERS)
def test_T14_rows_train_are_kept_merged_and_handed_on(
    spec_of: Callable[..., dict[str, Any]], tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    tied = "[tied-" in request.node.name
    if name == "head" and tied:
        pytest.skip("a tied head has no layer of its own")
    if name == "qlora":
        pytest.importorskip("bitsandbytes")
    spec = spec_of(tune={**TUNERS[name], "added_tokens": True}, more="frozen")
    if name == "prefix":
        del spec["stages"]["more"]
    plain = tables(lensmith.assemble(spec))
    artifact, *more = lensmith.train(spec, output=tmp_path / "run")
    assert "added_tokens" in lensmith.artifacts.Manifest.read(artifact).data["weights"]
    trained = lensmith.load(artifact, dtype=torch.float32)
    rows = trained.language_model.added_tokens  # type: ignore[union-attr]
    assert rows.ids == [len(plain[0]) - 2, len(plain[0]) - 1]
    assert (rows.embeddings - plain[0][-2:]).abs().max() > 1e-3
    assert (rows.head is None) is tied
    again = lensmith.load(trained.save(tmp_path / "again"), dtype=torch.float32)
    torch.testing.assert_close(logits(again), logits(trained))
    if name == "prefix":
        return
    merged = lensmith.load(lensmith.merge(artifact, tmp_path / "merged", dtype=torch.float32).folder)
    torch.testing.assert_close(logits(merged), logits(trained), rtol=1e-4, atol=1e-4)
    own = tables(merged)
    torch.testing.assert_close(own[0][-2:], rows.embeddings.data)
    if name not in ("head",):
        for table, before in zip(own, plain, strict=True):
            torch.testing.assert_close(table[:-2], before[:-2])
    [last] = more
    assert "added_tokens" not in lensmith.artifacts.Manifest.read(last).data["weights"]
    torch.testing.assert_close(tables(lensmith.load(last, dtype=torch.float32))[0][-2:], rows.embeddings.data)


def test_T14_under_zero_3_as_without(spec_of: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    losses = []
    for zero in (0, 3):
        spec = spec_of(tune={"name": "lora", "rank": 2, "added_tokens": True})
        spec["stages"]["tune"] |= {"deepspeed": {"zero": zero}, "max_steps": 3}
        lensmith.train(spec, output=tmp_path / str(zero))
        lines = (tmp_path / str(zero) / "metrics" / "tune.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_T14_the_plan_is_what_trains_and_answers_are_made_of_the_rows(
    spec_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    spec = spec_of(tune={"name": "frozen", "added_tokens": True})
    [artifact] = lensmith.train(spec, output=tmp_path / "run")
    planned = {p.name for p in lensmith.plan(checked(spec)).stages[0].trainable}
    assert {n for n in planned if n.startswith("language_model.")} <= {
        "language_model.added_tokens.embeddings",
        "language_model.added_tokens.head",
    }
    worn, merged = lensmith.load(artifact), lensmith.load(artifact, merge=True)
    options = lensmith.GenerationOptions(max_new_tokens=8)
    prompt = f"{NEW[0]} What colour is it? {NEW[1]}"
    assert worn.generate(None, prompt, options) == merged.generate(None, prompt, options)


def test_T14_what_stays_is_said(
    spec_of: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "the embeddings of the 2 tokens that add_tokens adds do not train and stay what they are"
    for number, (tuner, said) in enumerate(
        (("frozen", True), ({"name": "lora", "rank": 2, "added_tokens": True}, False), ("full", False))
    ):
        lensmith.train(spec_of(tune=tuner), output=tmp_path / str(number), max_steps=1)
        assert (words in " ".join(capsys.readouterr().err.split())) is said


def test_T14_nothing_to_train_is_refused(
    stages: Callable[..., dict[str, Any]], spec_of: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(SpecError, match="added_tokens: the language model has no added tokens; name some in its `add_"):
        checked(stages(tune={"name": "lora", "rank": 2, "added_tokens": True}))
    with pytest.raises(SpecError, match="added_tokens: the embeddings or the head train already"):
        checked(spec_of(tune={"name": "full", "added_tokens": True}))
