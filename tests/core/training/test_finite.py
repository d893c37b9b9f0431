"""Nothing that is not finite is saved, on one rank or two, and a run that diverged is told from what to go on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lensmith
from lensmith import files
from lensmith.errors import ArtifactError, TrainingError

SUDDEN = {"decay": "constant", "warmup_ratio": 0.0}


def nothing_saved(folder: Path) -> bool:
    return not list(folder.rglob("*.safetensors"))


@pytest.mark.parametrize("lr", [1e20, 1e30, 1e38, 1e308])
@pytest.mark.parametrize(
    "tuner", ["frozen", {"name": "lora", "rank": 2}, {"name": "full"}], ids=["frozen", "lora", "full"]
)
def test_T5_weights_that_diverged_are_never_checkpointed(
    lab: Any, spec: dict[str, Any], tmp_path: Path, lr: float, tuner: Any
) -> None:
    stage = {"tuner": tuner, "lr": lr, "schedule": SUDDEN, "checkpoints": {"every": 1}, "max_steps": 4}
    with pytest.raises(TrainingError, match=r"^stage 'align': .*; lower stages\.align\.lr .* start again$"):
        lab.train(lab.stages(spec, align=stage), tmp_path)
    assert nothing_saved(tmp_path)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_T5_in_every_engine(lab: Any, spec: dict[str, Any], tmp_path: Path, zero: int, precision: str) -> None:
    stage = {"tuner": {"name": "lora", "rank": 2}, "lr": 1e30, "schedule": SUDDEN, "max_steps": 1}
    engine = {"precision": precision, "deepspeed": {"zero": zero}}
    with pytest.raises(TrainingError, match=r"after step 1 not all is finite in .*nothing of it was saved"):
        lab.train(lab.stages(spec, align={**stage, **engine}), tmp_path)
    assert nothing_saved(tmp_path)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_T5_with_another_optimiser(lab: Any, spec: dict[str, Any], tmp_path: Path, momentum: float) -> None:
    optimizer = {"name": "sgd", "momentum": momentum}
    stage = {"tuner": {"name": "full"}, "optimizer": optimizer, "lr": 1e30, "schedule": SUDDEN, "max_steps": 1}
    with pytest.raises(TrainingError, match="not all is finite in"):
        lab.train(lab.stages(spec, align=stage), tmp_path)
    assert nothing_saved(tmp_path)


def test_A23_the_last_step_is_looked_at_too(lab: Any, spec: dict[str, Any], tmp_path: Path) -> None:
    """The first step of a warm-up has rate 0, so that the weights break in the last one and no loss tells."""
    with pytest.raises(TrainingError, match="after step 2 not all is finite in the weights"):
        lab.train(lab.stages(spec, align={"tuner": "frozen", "lr": 1e31, "max_steps": 2}), tmp_path)
    assert nothing_saved(tmp_path)


def test_A23_a_rate_beyond_fp32(lab: Any, spec: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"a learning rate of 1e\+308 \(connector\) overflows fp32; lower"):
        lab.train(lab.stages(spec, align={"tuner": "frozen", "lr": 1e308, "max_steps": 2}), tmp_path)
    assert nothing_saved(tmp_path)


def test_T5_the_last_good_checkpoint_is_named_and_trains_on(
    lab: Any, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensmith.training import schedule

    monkeypatch.setattr(schedule, "factor", lambda spec, step, total: 1e-6 if step < 2 else 1e33)
    stage = {"tuner": "frozen", "lr": 1e-3, "checkpoints": {"every": 1, "keep": 3}, "max_steps": 5}
    with pytest.raises(TrainingError) as told:
        lab.train(lab.stages(spec, align=stage), tmp_path / "run")
    monkeypatch.undo()
    named = re.search(r"start_from: (\S+)", str(told.value))
    assert named is not None
    assert Path(named[1]) == lab.run(tmp_path / "run").checkpoint("align", 2)
    again = lab.stages(spec, align={**stage, "lr": 1e-4})
    lab.train({**again, "start_from": named[1]}, tmp_path / "cured")
    assert (tmp_path / "cured" / "align" / "manifest.json").is_file()


def test_T5_a_later_stage_is_resumed_with_another_rate(lab: Any, spec: dict[str, Any], tmp_path: Path) -> None:
    bad = {"tuner": {"name": "lora", "rank": 2}, "lr": 1e30, "schedule": SUDDEN, "max_steps": 2}
    good = {"tuner": "frozen", "max_steps": 1, "schedule": SUDDEN}
    with pytest.raises(TrainingError, match=r"stage 'tune': .*and go on with --resume$"):
        lab.train(lab.stages(spec, align=good, tune=bad), tmp_path)
    lab.train(lab.stages(spec, align=good, tune={**bad, "lr": 1e-4}), tmp_path, resume=True)
    assert (tmp_path / "tune" / "manifest.json").is_file()


def poison(folder: Path, file: str) -> None:
    """What an earlier release left of a run that diverged: not finite, and every hash right."""
    path = folder / file
    if path.suffix == ".pt":
        from lensmith.training.state_files import _HARMLESS

        with torch.serialization.safe_globals(_HARMLESS):
            state = torch.load(path, weights_only=True)
        inner = state["optimizer"]["state"] if "optimizer" in state else state["optimizer_state_dict"]["state"]
        next(iter(inner.values()))["exp_avg"].fill_(float("nan"))
        torch.save(state, path)
    else:
        tensors = load_file(path)
        save_file({name: torch.full_like(t, 5e29) for name, t in tensors.items()}, path, metadata={"format": "pt"})
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = json.loads((folder / "resume.json").read_text())
    for entries, root in ((manifest["files"], folder), (listed["files"], folder / "resume")):
        for name in entries:
            entries[name] = {"size": (root / name).stat().st_size, "sha256": files.sha256(root / name)}
    files.write_json(folder / "manifest.json", manifest)
    listed["manifest"] = files.sha256(folder / "manifest.json")
    files.write_json(folder / "resume.json", listed)


@pytest.mark.parametrize("what", ["connector.safetensors", "resume/engine/mp_rank_00_model_states.pt"])
def test_T5_a_bad_checkpoint_is_not_taken_up(
    lab: Any, spec: dict[str, Any], tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from lensmith.training.progress import Metrics

    stage = lab.stages(spec, align={"tuner": "frozen", "checkpoints": {"every": 1, "keep": 9}, "max_steps": 4})
    whole = lab.train(stage, tmp_path / "whole")
    write = Metrics.write

    def fail(self: Metrics, entry: dict[str, Any]) -> None:
        if entry["step"] == 4:
            raise RuntimeError("power cut")
        write(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            lab.train(stage, tmp_path / "run")
    run = lab.run(tmp_path / "run")
    poison(run.checkpoint("align", 3), what)
    lab.train(stage, tmp_path / "run", resume=True)
    assert "step-00000003 is damaged" in (told := capsys.readouterr().err)
    assert "is not finite" in told
    assert run.losses("align") == whole.losses("align")
    for number in (1, 2):
        shutil.rmtree(run.checkpoint("align", number), ignore_errors=True)


def test_T5_a_model_that_is_not_finite_is_not_saved_by_hand(spec: dict[str, Any], tmp_path: Path) -> None:
    model = lensmith.assemble(spec)
    with torch.no_grad():
        next(model.connector.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(ArtifactError, match=r"connector\.safetensors would hold numbers that are not finite \(0\."):
        model.save(tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_T5_two_ranks_stop_together(
    lab: Any, spec: dict[str, Any], tmp_path: Path, write_spec: Callable[[dict[str, Any]], Path]
) -> None:
    stage = {"tuner": "frozen", "lr": 1e30, "schedule": SUDDEN, "checkpoints": {"every": 1}, "max_steps": 3}
    file = write_spec(lab.stages(spec, align={**stage, "deepspeed": {"zero": 2}}))
    process = lab.command("train", file, "--nproc", "2", "--output", tmp_path / "run")
    code, out, err = lab.finish(process, timeout=400)
    assert code == 2, (out, err)
    assert "not all is finite in" in err
    assert "Traceback" not in err
    assert nothing_saved(tmp_path / "run")
