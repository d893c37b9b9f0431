"""A stranger's tuner with a folder of its own: what it trained is in the next stage, after a merge and in an export."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith import merging
from lensmith.conversion.exporting import export
from lensmith.errors import ArtifactError


@pytest.fixture(scope="module")
def run(wrong_parts: None, model_spec: dict[str, Any], rows: Path, tmp_path_factory: Any) -> Path:
    common = {
        "data": {"sources": [str(rows)]},
        "lr": 1e-2,
        "batch": {"size": 7},
        "schedule": {"warmup_ratio": 0.0},
        "precision": "fp32",
        "max_steps": 2,
    }
    tuners = {"align": "frozen", "tune": {"name": "fine_bitfit"}, "again": {"name": "fine_bitfit"}, "more": "frozen"}
    folder: Path = tmp_path_factory.mktemp("run")
    stages = {name: {**common, "tuner": tuner} for name, tuner in tuners.items()}
    lensmith.train({"model": model_spec, "stages": stages}, output=folder)
    return folder


def norms(folder: Path) -> torch.Tensor:
    model = lensmith.load(folder, dtype=torch.float32)
    return torch.cat([p for n, p in model.named_parameters() if n.startswith("language_model.") and p.ndim == 1])


def test_N1_the_next_stages_hold_it(run: Path) -> None:
    trained = norms(run / "again")
    assert not torch.equal(trained, norms(run / "align"))
    assert not torch.equal(trained, norms(run / "tune")), "the same tuner trains its own weights on"
    assert torch.equal(norms(run / "more"), trained)
    weights = {name: lensmith.artifacts.Manifest.read(run / name).data["weights"] for name in ("tune", "again", "more")}
    assert weights == {"tune": ["bitfit"], "again": ["bitfit"], "more": ["language_model"]}


def test_N1_merge_writes_it(run: Path, tmp_path: Path) -> None:
    done = lensmith.merge(run / "tune", tmp_path / "merged")
    assert done.parts == ("language_model",)
    assert torch.equal(norms(tmp_path / "merged"), norms(run / "tune"))
    one, other = (lensmith.load(folder, dtype=torch.float32) for folder in (run / "tune", tmp_path / "merged"))
    samples = merging.probes(one, 3)
    for before, after in zip(merging.logits(one, samples), merging.logits(other, samples), strict=True):
        assert torch.allclose(before, after, atol=1e-5)


def test_N1_an_export_says_what_it_needs(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds bitfit/, which only its tuner 'fine_bitfit' can read.*--merge"):
        export(run / "tune", tmp_path / "hf", to="hf", dry_run=True)
    exported = export(run / "tune", tmp_path / "hf", to="hf", merge=True)
    assert exported is not None
    assert exported.difference <= exported.tolerance


def test_N1_a_folder_that_a_tuner_does_not_name_is_refused(
    run: Path, wrong_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lensmith.load(run / "tune", dtype=torch.float32)
    tuner = type(model.tuner)
    save = tuner.save
    monkeypatch.setattr(tuner, "save", lambda self, *rest: save(self, *rest) and [])
    with pytest.raises(ArtifactError, match="'fine_bitfit' wrote bitfit and its save\\(\\) returned nothing"):
        model.save(tmp_path / "again")
    assert not (tmp_path / "again").exists()
    shutil.rmtree(tmp_path)
