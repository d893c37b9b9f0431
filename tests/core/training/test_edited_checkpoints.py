"""Checkpoints that somebody edited, every hash redone: named, and refused or passed over, never a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lensmith import files
from lensmith.errors import TrainingError


@pytest.fixture(scope="module")
def begun(lab: Any, model_spec: dict[str, Any], rows: Path, tmp_path_factory: Any) -> tuple[dict[str, Any], Path]:
    """A spec, and a run of it that was stopped after two of four steps."""
    stage = {
        "tuner": "frozen",
        "data": {"sources": [str(rows)]},
        "batch": {"size": 4},
        "precision": "fp32",
        "checkpoints": {"every": 1, "keep": 9},
        "max_steps": 3,
    }
    spec = {"model": model_spec, "stages": {"align": stage}}
    folder: Path = tmp_path_factory.mktemp("run")
    lab.train(spec, folder)
    shutil.rmtree(folder / "align")  # as if the run had been killed before it published
    return spec, folder


def redo(folder: Path) -> None:
    listed = json.loads((folder / "resume.json").read_text())
    listed["files"] = files.inventory(folder / "resume")
    listed["manifest"] = files.sha256(folder / "manifest.json")
    (folder / "resume.json").write_text(json.dumps(listed))


@pytest.fixture
def run(begun: tuple[dict[str, Any], Path], tmp_path: Path) -> tuple[dict[str, Any], Path]:
    return begun[0], Path(shutil.copytree(begun[1], tmp_path / "run"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("engine/mp_rank_00_model_states.pt", "engine/renamed.pt"),
        ("engine/mp_rank_00_model_states.pt", "other/mp_rank_00_model_states.pt"),
        ("random-0.safetensors", "random-5.safetensors"),
    ],
)
def test_A22_a_renamed_file_of_the_state_is_named(
    lab: Any, run: tuple[dict[str, Any], Path], old: str, new: str
) -> None:
    spec, folder = run
    newest = lab.run(folder).checkpoint("align", 2)
    target = newest / "resume" / new
    target.parent.mkdir(exist_ok=True)
    (newest / "resume" / old).rename(target)
    redo(newest)
    with pytest.raises(TrainingError) as told:
        lab.train(spec, folder, resume=True)
    message = str(told.value)
    assert "\n" not in message
    assert "holds no state that DeepSpeed can read" in message
    assert new in message
    assert "delete the checkpoint and go on with --resume from the one before" in message


def test_A22_a_checkpoint_without_its_manifest_is_passed_over_aloud(
    lab: Any, run: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    spec, folder = run
    (lab.run(folder).checkpoint("align", 2) / "manifest.json").unlink()
    lab.train(spec, folder, resume=True)
    told = capsys.readouterr().err
    assert "step-00000002 is damaged" in told
    assert "it has no manifest.json" in told
    assert "going on from step-00000001 instead" in told


@pytest.mark.parametrize("name", ["notes.dill", "resume/engine/more.PKL", "resume/weights.npy"])
def test_A22_pickles_in_a_checkpoint(
    lab: Any, run: tuple[dict[str, Any], Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, folder = run
    newest = lab.run(folder).checkpoint("align", 2)
    (newest / name).write_bytes(b"x")
    redo(newest)
    lab.train(spec, folder, resume=True)
    assert f"{name} may be pickles" in capsys.readouterr().err


def test_A22_a_link_out_of_a_checkpoint(
    lab: Any, run: tuple[dict[str, Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, folder = run
    newest = lab.run(folder).checkpoint("align", 2)
    outside = tmp_path / "connector.safetensors"
    (newest / "connector.safetensors").rename(outside)
    (newest / "connector.safetensors").symlink_to(outside)
    lab.train(spec, folder, resume=True)
    assert "connector.safetensors is a link that leads out of it" in capsys.readouterr().err
