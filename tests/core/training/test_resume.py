"""Killed and resumed, a run goes on as if nothing had happened; what cannot be resumed is refused."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import lensmith
from lensmith.errors import ArtifactError, TrainingError
from lensmith.training.progress import Metrics

STEPS = 24


@pytest.fixture(scope="module")
def spec_with_dropout(model_spec: dict[str, Any], rows: Path) -> dict[str, Any]:
    """Everything that a resumed run could get wrong: dropout, moments, accumulation, several epochs, a schedule."""
    stage = {
        "tuner": {"name": "lora", "rank": 2, "dropout": 0.3},
        "data": {"sources": [{"path": str(rows)}]},
        "lr": 1e-2,
        "max_steps": STEPS,
        "batch": {"size": 4, "micro": 2},
        "precision": "fp32",
        "gradient_clipping": 0.5,
        "checkpoints": {"every": 2, "keep": 2},
    }
    return {"model": model_spec, "stages": {"tune": stage}}


def varied(spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(spec)
    changed["stages"]["tune"].update(changes)
    return changed


@pytest.fixture(scope="module")
def uninterrupted(lab: Any, spec_with_dropout: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Without a checkpoint, which must not change anything."""
    return lab.train(varied(spec_with_dropout, checkpoints={}), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def crashed(lab: Any, spec_with_dropout: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped by an error in step 8, after checkpoints at 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("crashed")
    write = Metrics.write

    def fail(self: Metrics, entry: dict[str, Any]) -> None:
        if entry["step"] == 8:
            raise RuntimeError("power cut")
        write(self, entry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "write", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            lab.train(spec_with_dropout, folder)
    return folder


@pytest.fixture
def begun(lab: Any, crashed: Path, tmp_path: Path) -> Any:
    """A copy of the crashed run, to be resumed or damaged."""
    shutil.copytree(crashed, tmp_path / "run")
    return lab.run(tmp_path / "run")


def assert_as_if_nothing_had_happened(run: Any, uninterrupted: Any) -> None:
    steps = run.manifest("tune")["steps"]
    assert [entry["step"] for entry in run.metrics("tune")] == list(range(1, steps + 1))
    assert run.losses("tune") == uninterrupted.losses("tune")  # to the last bit
    ours, theirs = run.weights("tune"), uninterrupted.weights("tune")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_dropout_is_on_while_training(
    lab: Any, spec_with_dropout: dict[str, Any], uninterrupted: Any, tmp_path: Path
) -> None:
    """So that the random state below matters. The adapter's B begins at zero, so the first steps are the same."""
    without = varied(spec_with_dropout, tuner={"name": "lora", "rank": 2}, checkpoints={})
    losses = lab.train(without, tmp_path).losses("tune")
    assert losses[0] == uninterrupted.losses("tune")[0]
    assert losses[-1] != uninterrupted.losses("tune")[-1]


class TestKilled:
    def test_one_process(
        self,
        lab: Any,
        spec_with_dropout: dict[str, Any],
        uninterrupted: Any,
        write_spec: Callable[[dict[str, Any]], Path],
        tmp_path: Path,
    ) -> None:
        """Killed while a checkpoint is being written."""
        run = lab.run(tmp_path / "run")
        process = lab.command("train", write_spec(spec_with_dropout), "--output", run.folder)
        folder = run.folder / "checkpoints" / "tune"
        lab.wait_for(lambda: run.checkpoints("tune") and any(folder.glob(".writing-*")), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (run.folder / "tune").exists()
        assert 2 <= max(run.checkpoints("tune")) < STEPS
        lab.train(spec_with_dropout, run.folder, resume=True)
        assert_as_if_nothing_had_happened(run, uninterrupted)

    def test_two_ranks(
        self,
        lab: Any,
        spec_with_dropout: dict[str, Any],
        write_spec: Callable[[dict[str, Any]], Path],
        tmp_path: Path,
    ) -> None:
        """Only the command is killed; its workers notice, and do not write into the resumed run."""
        spec = varied(
            spec_with_dropout,
            max_steps=60,
            batch={"size": 4, "micro": 1},
            deepspeed={"zero": 2},
            checkpoints={"every": 10},
        )
        file, whole, run = write_spec(spec), lab.run(tmp_path / "whole"), lab.run(tmp_path / "run")
        lab.lensmith("train", file, "--nproc", "2", "--output", whole.folder)
        process = lab.command("train", file, "--nproc", "2", "--output", run.folder)
        lab.wait_for(lambda: run.checkpoints("tune"), process)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 3
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(workers, timeout=15)
        for survivor in alive:
            survivor.kill()
        assert not alive
        process.communicate()
        assert not (run.folder / "tune").exists()
        lab.lensmith("train", file, "--nproc", "2", "--output", run.folder, "--resume")
        assert len(run.losses("tune")) == 60
        assert_as_if_nothing_had_happened(run, whole)


class TestCrashed:
    def test_the_newest_are_kept(self, begun: Any) -> None:
        assert begun.checkpoints("tune") == [4, 6]
        assert sorted(p.name for p in begun.folder.iterdir()) == ["checkpoints", "metrics"]

    def test_resumed(self, lab: Any, begun: Any, spec_with_dropout: dict[str, Any], uninterrupted: Any) -> None:
        lab.train(spec_with_dropout, begun.folder, resume=True)
        assert_as_if_nothing_had_happened(begun, uninterrupted)
        assert begun.checkpoints("tune") == [STEPS - 4, STEPS - 2]

    def test_from_the_one_before(
        self, lab: Any, begun: Any, spec_with_dropout: dict[str, Any], uninterrupted: Any
    ) -> None:
        shutil.rmtree(begun.checkpoint("tune", 6))
        lab.train(spec_with_dropout, begun.folder, resume=True)
        assert_as_if_nothing_had_happened(begun, uninterrupted)

    def test_what_was_left_half_written_is_not_taken(
        self, lab: Any, begun: Any, spec_with_dropout: dict[str, Any], uninterrupted: Any
    ) -> None:
        newest = begun.checkpoint("tune", 6)
        shutil.copytree(newest, newest.with_name(".writing-step-00000008"))
        shutil.copytree(newest, newest.with_name("step-00000010"))
        (newest.with_name("step-00000010") / "manifest.json").unlink()
        with (begun.folder / "metrics" / "tune.jsonl").open("a") as metrics:
            metrics.write('{"step": 9, "lo')
        lab.train(spec_with_dropout, begun.folder, resume=True)
        assert_as_if_nothing_had_happened(begun, uninterrupted)

    def test_a_checkpoint_can_be_used_at_once(self, begun: Any) -> None:
        folder = begun.checkpoint("tune", 6)
        manifest = json.loads((folder / "manifest.json").read_text())
        assert (manifest["step"], manifest["steps"]) == (6, STEPS)
        model = lensmith.load(folder)
        assert isinstance(model.generate(None, "Hi", lensmith.GenerationOptions(max_new_tokens=2)), str)

    def test_workers_and_checkpoints_may_change(
        self, lab: Any, begun: Any, spec_with_dropout: dict[str, Any], uninterrupted: Any
    ) -> None:
        spec = varied(spec_with_dropout, checkpoints={"every": 5, "keep": 1})
        spec["stages"]["tune"]["data"]["workers"] = 1
        lab.train(spec, begun.folder, resume=True)
        assert_as_if_nothing_had_happened(begun, uninterrupted)


class TestRefused:
    @pytest.mark.parametrize(
        ("field", "value", "named"),
        [
            ("lr", 5e-3, "spec.lr"),
            ("max_steps", STEPS + 1, "spec.max_steps"),
            ("seed", 43, "spec.seed"),
            ("batch", {"size": 8, "micro": 2}, "spec.batch.size"),
            ("tuner", {"name": "lora", "rank": 2, "dropout": 0.2}, "spec.tuner.dropout"),
        ],
    )
    def test_another_stage(
        self, begun: Any, spec_with_dropout: dict[str, Any], field: str, value: Any, named: str
    ) -> None:
        with pytest.raises(ArtifactError, match=f"was trained with another spec: {named} differ; restore them"):
            lensmith.train(varied(spec_with_dropout, **{field: value}), output=begun.folder, resume=True)

    def test_another_model(self, begun: Any, spec_with_dropout: dict[str, Any]) -> None:
        spec = copy.deepcopy(spec_with_dropout)
        spec["model"]["connector"] = {"name": "mlp", "depth": 3}
        with pytest.raises(ArtifactError, match=r"model\.connector\.depth differ"):
            lensmith.train(spec, output=begun.folder, resume=True)

    def test_another_beginning(self, begun: Any, spec_with_dropout: dict[str, Any]) -> None:
        spec = {**spec_with_dropout, "start_from": str(begun.checkpoint("tune", 4))}
        with pytest.raises(ArtifactError, match="start_from differ"):
            lensmith.train(spec, output=begun.folder, resume=True)

    def test_other_rows(self, begun: Any, spec_with_dropout: dict[str, Any], rows: Path, tmp_path: Path) -> None:
        content = rows.read_bytes()
        try:
            rows.write_bytes(content + content.splitlines(keepends=True)[0])
            with pytest.raises(TrainingError, match=r"rows\.jsonl changed since .*step-00000006 was written"):
                lensmith.train(spec_with_dropout, output=begun.folder, resume=True)
        finally:
            rows.write_bytes(content)

    def test_another_number_of_ranks(self, begun: Any, spec_with_dropout: dict[str, Any]) -> None:
        file = begun.checkpoint("tune", 6) / "resume.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "world": 2}))
        with pytest.raises(TrainingError, match="was written by 2 ranks, this run has 1; resume with --nproc 2"):
            lensmith.train(spec_with_dropout, output=begun.folder, resume=True)

    def test_a_changed_byte(self, begun: Any, spec_with_dropout: dict[str, Any]) -> None:
        file = max((begun.checkpoint("tune", 6) / "resume").rglob("*.pt"), key=lambda p: p.stat().st_size)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        name = file.relative_to(begun.checkpoint("tune", 6) / "resume")
        with pytest.raises(
            TrainingError,
            match=f"is damaged: {name} was changed .*; delete it to resume from the one before",
        ):
            lensmith.train(spec_with_dropout, output=begun.folder, resume=True)

    def test_a_missing_file(self, begun: Any, spec_with_dropout: dict[str, Any]) -> None:
        (begun.checkpoint("tune", 6) / "resume" / "random-0.safetensors").unlink()
        with pytest.raises(TrainingError, match=r"is damaged: random-0\.safetensors is missing"):
            lensmith.train(spec_with_dropout, output=begun.folder, resume=True)

    @pytest.mark.parametrize("content", ["", "{}", '{"world": 1, "files": ', '{"world": "x", "files": {}}'])
    def test_an_inventory_that_cannot_be_read(
        self, begun: Any, spec_with_dropout: dict[str, Any], content: str
    ) -> None:
        (begun.checkpoint("tune", 6) / "resume.json").write_text(content)
        with pytest.raises(TrainingError, match=r"step-00000006 is damaged: resume\.json cannot be read"):
            lensmith.train(spec_with_dropout, output=begun.folder, resume=True)

    @pytest.mark.parametrize("content", ["", '{"format": 1}', "[]", '{"format": 2}'])
    def test_a_manifest_that_cannot_be_read(self, begun: Any, spec_with_dropout: dict[str, Any], content: str) -> None:
        (begun.checkpoint("tune", 6) / "manifest.json").write_text(content)
        with pytest.raises(ArtifactError, match=r"manifest\.json (cannot be read|is damaged: it lacks|has format 2)"):
            lensmith.train(spec_with_dropout, output=begun.folder, resume=True)

    def test_nothing_to_resume(self, spec_with_dropout: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match=r"there is nothing to resume in .*; start without --resume"):
            lensmith.train(spec_with_dropout, output=tmp_path / "new", resume=True)

    def test_a_begun_run_is_not_overwritten(self, begun: Any, spec_with_dropout: dict[str, Any]) -> None:
        with pytest.raises(TrainingError, match="already holds tune; go on with --resume, choose another"):
            lensmith.train(spec_with_dropout, output=begun.folder)


class TestFullDisk:
    def full(self, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def test_while_a_checkpoint_is_written(
        self, lab: Any, spec_with_dropout: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lensmith import artifacts

        write = artifacts.write_artifact

        def fill(folder: Path, model: Any, state: Any, tuner: Any, spec: Any, provenance: Any) -> None:
            if provenance.step == 4:
                self.full()
            write(folder, model, state, tuner, spec, provenance)

        monkeypatch.setattr(artifacts, "write_artifact", fill)
        with pytest.raises(
            TrainingError,
            match=r"step-00000004 could not be written \(rank 0: OSError: .*No space left.*the ones before it are",
        ):
            lab.train(spec_with_dropout, tmp_path)
        assert [p.name for p in (tmp_path / "checkpoints" / "tune").iterdir()] == ["step-00000002"]

    def test_while_the_artifact_is_written(
        self,
        lab: Any,
        spec_with_dropout: dict[str, Any],
        uninterrupted: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The room is made and the run resumed: the stage is finished from its last checkpoint."""
        from lensmith import artifacts

        with monkeypatch.context() as patch:
            patch.setattr(artifacts, "save_model", self.full)
            patch.setattr("lensmith.artifacts._manifest", _only_for_checkpoints(artifacts._manifest, self.full))
            with pytest.raises(TrainingError, match=r"tune could not be written: .*the disk is full .*--resume"):
                lab.train(spec_with_dropout, tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "metrics"]
        lab.train(spec_with_dropout, tmp_path, resume=True)
        assert_as_if_nothing_had_happened(lab.run(tmp_path), uninterrupted)


def _only_for_checkpoints(manifest: Callable[..., Any], full: Callable[..., None]) -> Callable[..., Any]:
    def write(folder: Path, *rest: Any) -> Any:
        if "checkpoints" not in folder.parts:
            full()
        return manifest(folder, *rest)

    return write
