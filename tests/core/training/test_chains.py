"""Stages after stages: adapters are folded in or go on training, and every artifact stands on its own."""

from __future__ import annotations

import copy
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith.data.batch import collate
from lensmith.data.reader import RowReader
from lensmith.data.sources import Mixture
from lensmith.errors import ArtifactError
from lensmith.spec.run import DataSpec

LORA = {"name": "lora", "rank": 2}
CHAIN = {
    "lora": LORA,
    "full": {"name": "full"},
    "adapt": LORA,
    "further": LORA,  # the same tuner: the same adapters
    "other": {"name": "lora", "rank": 3, "targets": ["q_proj", "v_proj"]},
    "align": "frozen",
    "last": {"name": "full", "vision_encoder": True},
}


@pytest.fixture(scope="module")
def chain_spec(model_spec: dict[str, Any], rows: Path) -> dict[str, Any]:
    common = {
        "data": {"sources": [str(rows)]},
        "lr": 1e-2,
        "epochs": 2,
        "batch": {"size": 14},  # every row in every step, so that first losses are those of the whole data
        "schedule": {"warmup_ratio": 0.0},
        "precision": "fp32",
    }
    return {"model": model_spec, "stages": {name: {**common, "tuner": tuner} for name, tuner in CHAIN.items()}}


@pytest.fixture(scope="module")
def run(lab: Any, chain_spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lab.train(chain_spec, tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def loss_of(rows: Path) -> Any:
    """Mean loss over all rows of a loaded model."""

    def mean(model: lensmith.MultimodalModel) -> float:
        tokenizer = model.language_model.tokenizer
        mixture = Mixture(DataSpec.model_validate({"sources": [str(rows)]}))
        reader = RowReader(mixture, model.conversation, tokenizer, 256, model.pictures)
        batch = collate([reader.sample(index) for index in range(len(mixture))], tokenizer.pad_id)
        with torch.no_grad():
            return model(batch).item() / batch.target_count

    return mean


def test_each_stage_begins_with_the_model_before(run: Any, loss_of: Any) -> None:
    names = list(CHAIN)
    for before, after in pairwise(names):
        loaded = loss_of(lensmith.load(run.folder / before))
        assert run.losses(after)[0] == pytest.approx(loaded, rel=1e-5), (before, after)
        assert run.losses(after)[1] != run.losses(after)[0]


def test_what_each_artifact_holds(run: Any) -> None:
    assert {name: run.manifest(name)["weights"] for name in CHAIN} == {
        "lora": ["adapter"],
        "full": ["language_model"],
        "adapt": ["adapter", "language_model"],
        "further": ["adapter", "language_model"],
        "other": ["adapter", "language_model"],
        "align": ["language_model"],
        "last": ["language_model", "vision_encoder"],
    }


def base(run: Any, stage: str) -> dict[str, torch.Tensor]:
    prefix = "language_model/model.safetensors:"
    return {n.removeprefix(prefix): t for n, t in run.weights(stage).items() if n.startswith(prefix)}


def adapter(run: Any, stage: str) -> dict[str, torch.Tensor]:
    return {n: t for n, t in run.weights(stage).items() if n.startswith("adapter/")}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_adapters_on_a_tuned_base_leave_it_alone(run: Any) -> None:
    assert equal(base(run, "adapt"), base(run, "full"))
    assert equal(base(run, "further"), base(run, "adapt"))


def test_the_same_tuner_goes_on_with_the_same_adapters(run: Any) -> None:
    first, second = adapter(run, "adapt"), adapter(run, "further")
    assert first.keys() == second.keys()
    assert not equal(first, second)
    for name, tensor in first.items():
        # Still near: two steps from where they were, not from a fresh start, whose B would be near zero.
        assert torch.nn.functional.cosine_similarity(tensor.flatten(), second[name].flatten(), dim=0) > 0.7, name


def test_another_tuner_folds_them_in(run: Any) -> None:
    before, after = base(run, "further"), base(run, "other")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    assert {n.split(".")[-3] for n in adapter(run, "other")} == {"q_proj", "v_proj"}
    assert not equal(base(run, "align"), base(run, "other"))
    assert not equal(base(run, "last"), base(run, "align"))


def test_each_artifact_stands_on_its_own(run: Any, loss_of: Any, tmp_path: Path, chain_spec: dict[str, Any]) -> None:
    """Copied away, with the run gone, it is the same model."""
    expected = {name: loss_of(lensmith.load(run.folder / name)) for name in CHAIN}
    hidden = run.folder.with_name("hidden")
    run.folder.rename(hidden)
    try:
        for name, loss in expected.items():
            moved = shutil.copytree(hidden / name, tmp_path / name)
            model = lensmith.load(moved)
            assert loss_of(model) == loss
            assert loss_of(lensmith.load(model.save(tmp_path / f"{name}-again"))) == loss
            assert loss_of(lensmith.load(moved, merge=True)) == pytest.approx(loss, rel=1e-5)
    finally:
        hidden.rename(run.folder)


def test_a_merged_model_that_is_saved_keeps_what_was_merged(run: Any, loss_of: Any, tmp_path: Path) -> None:
    merged = lensmith.load(run.folder / "lora", merge=True)
    saved = merged.save(tmp_path / "merged")
    loaded = lensmith.load(saved)
    assert loss_of(loaded) == loss_of(merged)
    assert not any("lora_" in name for name, _ in loaded.named_parameters())


class TestStartFrom:
    def spec(self, chain_spec: dict[str, Any], run: Any, stage: str, **changes: Any) -> dict[str, Any]:
        spec = copy.deepcopy(chain_spec)
        spec["stages"] = {"next": {**spec["stages"]["align"], **changes}}
        return {**spec, "start_from": str(run.folder / stage)}

    def test_an_artifact_of_another_run(
        self, lab: Any, chain_spec: dict[str, Any], run: Any, loss_of: Any, tmp_path: Path
    ) -> None:
        started = lab.train(self.spec(chain_spec, run, "lora"), tmp_path)
        assert started.losses("next")[0] == pytest.approx(loss_of(lensmith.load(run.folder / "lora")), rel=1e-5)

    def test_a_base_that_moved_is_no_other_model(
        self, lab: Any, chain_spec: dict[str, Any], run: Any, tiny_language_model: Path, tmp_path: Path
    ) -> None:
        spec = self.spec(chain_spec, run, "full")
        spec["model"]["language_model"]["checkpoint"] = str(shutil.copytree(tiny_language_model, tmp_path / "base"))
        assert lab.train(spec, tmp_path / "run").losses("next")

    @pytest.mark.parametrize(
        ("part", "value", "named"),
        [
            ("connector", {"name": "mlp", "depth": 3}, r"model\.connector\.depth"),
            ("connector", {"name": "linear"}, r"model\.connector\."),
            ("image_splitter", {"name": "square"}, r"model\.image_splitter\."),
            ("vision_encoder", {"select_layer": -1}, r"model\.vision_encoder\.select_layer"),
            ("language_model", {"name": "vicuna"}, r"model\.language_model\.name"),
        ],
    )
    def test_another_model_is_refused(
        self, chain_spec: dict[str, Any], run: Any, tmp_path: Path, part: str, value: Any, named: str
    ) -> None:
        spec = self.spec(chain_spec, run, "full")
        if "name" in value and part == "connector":
            spec["model"][part] = value
        elif part == "image_splitter":
            spec["model"][part] = value["name"]
        else:
            spec["model"][part] |= value
        with pytest.raises(ArtifactError, match=f"is of another model than this spec's: {named}.* differ"):
            lensmith.train(spec, output=tmp_path)

    def test_the_template_is_this_specs(self, lab: Any, chain_spec: dict[str, Any], run: Any, tmp_path: Path) -> None:
        spec = self.spec(chain_spec, run, "lora")
        spec["model"]["conversation"] = {"name": "vicuna_v1", "system": "Be brief."}
        started = lab.train(spec, tmp_path)
        template = started.manifest("next")["model"]["conversation"]
        assert (template["name"], template["system"]) == ("vicuna_v1", "Be brief.")
        assert type(lensmith.load(tmp_path / "next").conversation).__name__ == "VicunaConversation"

    def test_an_artifact_that_is_not_there(self, chain_spec: dict[str, Any], run: Any, tmp_path: Path) -> None:
        with pytest.raises(lensmith.SpecError, match=r"start_from: .*gone is not an artifact"):
            lensmith.train(self.spec(chain_spec, run, "gone"), output=tmp_path)
