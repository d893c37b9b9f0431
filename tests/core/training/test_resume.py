"""Killed and resumed, a run goes on as if nothing had happened; what cannot be resumed is refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith import files
from lensmith.errors import ArtifactError, Interrupted, TrainingError
from lensmith.training import checkpoint
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


def test_a_checkpoint_from_before_a_field_existed(begun: Any, spec_with_dropout: dict[str, Any]) -> None:
    """A field that came since counts as its default, and as a difference where the spec sets it otherwise."""
    for file in begun.folder.rglob("manifest.json"):
        manifest = json.loads(file.read_text())
        del manifest["stage"]["spec"]["tf32"], manifest["stage"]["model"]["connector"]["input_norm"]
        file.write_text(json.dumps(manifest))
        inventory = file.with_name("resume.json")
        listed = json.loads(inventory.read_text())
        inventory.write_text(json.dumps({**listed, "manifest": files.sha256(file)}))
    with pytest.raises(ArtifactError, match=r"spec\.tf32 differ \(spec\.tf32 was False, is True\)"):
        lensmith.train(varied(spec_with_dropout, tf32=True), output=begun.folder, resume=True)
    lensmith.train(spec_with_dropout, output=begun.folder, resume=True)
    assert begun.manifest("tune")["step"] == STEPS


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

    def test_by_ctrl_c(
        self,
        lab: Any,
        spec_with_dropout: dict[str, Any],
        uninterrupted: Any,
        write_spec: Callable[[dict[str, Any]], Path],
        tmp_path: Path,
    ) -> None:
        """The step is ended and saved, checkpoints asked for or not; the exit code is the shell's for SIGINT."""
        spec = varied(spec_with_dropout, checkpoints={})
        run = lab.run(tmp_path / "run")
        process = lab.command("train", write_spec(spec), "--output", run.folder)
        lab.wait_for(lambda: (run.folder / "metrics" / "tune.jsonl").is_file() and run.losses("tune"), process)
        process.send_signal(signal.SIGINT)
        code, _, told = lab.finish(process)
        assert code == 130, told
        (step,) = run.checkpoints("tune")
        assert (
            f"stopped by SIGINT after step {step} of {STEPS}; the checkpoint is {run.checkpoint('tune', step)}" in told
        )
        assert told.rstrip().endswith("; go on with --resume")
        lab.train(spec, run.folder, resume=True)
        assert_as_if_nothing_had_happened(run, uninterrupted)


class TestStopped:
    """A signal while a step is taken."""

    @pytest.fixture
    def signal_at(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        write = Metrics.write

        def choose(number: int, step: int) -> None:
            def note(self: Metrics, entry: dict[str, Any]) -> None:
                write(self, entry)
                if entry["step"] == step:
                    os.kill(os.getpid(), number)

            monkeypatch.setattr(Metrics, "write", note)

        return choose

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_it_saves_and_says_where(
        self,
        lab: Any,
        spec_with_dropout: dict[str, Any],
        uninterrupted: Any,
        tmp_path: Path,
        signal_at: Callable[..., None],
        number: signal.Signals,
    ) -> None:
        before = signal.getsignal(number)
        signal_at(number, 7)
        with pytest.raises(Interrupted) as caught:
            lab.train(spec_with_dropout, tmp_path)
        run = lab.run(tmp_path)
        assert caught.value.signal == number
        assert str(caught.value) == (
            f"stopped by {number.name} after step 7 of {STEPS}; the checkpoint is {run.checkpoint('tune', 7)};"
            " go on with --resume"
        )
        assert run.checkpoints("tune") == [6, 7]
        assert signal.getsignal(number) == before
        signal_at(number, 0)
        lab.train(spec_with_dropout, tmp_path, resume=True)
        assert_as_if_nothing_had_happened(run, uninterrupted)

    @pytest.mark.parametrize(
        "changes",
        [
            {"tuner": {"name": "frozen"}},
            {"tuner": {"name": "full", "vision_encoder": True}, "deepspeed": {"zero": 3}},
            {"tuner": {"name": "qlora", "rank": 2}, "precision": "bf16", "deepspeed": {"zero": 2}},
            {"optimizer": {"name": "adamw_8bit"}, "precision": "bf16"},
            {"optimizer": {"name": "adafactor"}},
            {"deepspeed": {"zero": 1}, "precision": "bf16"},
        ],
        ids=lambda changes: " ".join(str(value) for value in changes.values()),
    )
    def test_it_goes_on_whatever_trains(
        self,
        lab: Any,
        spec_with_dropout: dict[str, Any],
        tmp_path: Path,
        signal_at: Callable[..., None],
        changes: dict[str, Any],
    ) -> None:
        if "qlora" in str(changes) or "8bit" in str(changes):
            pytest.importorskip("bitsandbytes")
        spec = varied(spec_with_dropout, max_steps=6, **{"checkpoints": {}, **changes})
        whole = lab.train(spec, tmp_path / "whole")
        signal_at(signal.SIGTERM, 3)
        with pytest.raises(Interrupted, match="after step 3 of 6"):
            lab.train(spec, tmp_path / "run")
        signal_at(signal.SIGTERM, 0)
        assert_as_if_nothing_had_happened(lab.train(spec, tmp_path / "run", resume=True), whole)

    def test_in_the_last_step_of_all_there_is_nothing_to_stop(
        self, lab: Any, spec_with_dropout: dict[str, Any], tmp_path: Path, signal_at: Callable[..., None]
    ) -> None:
        signal_at(signal.SIGTERM, 2)
        run = lab.train(varied(spec_with_dropout, max_steps=2), tmp_path)
        assert run.manifest("tune")["step"] == 2

    def test_in_the_last_step_of_a_stage_the_next_is_not_begun(
        self, lab: Any, spec_with_dropout: dict[str, Any], tmp_path: Path, signal_at: Callable[..., None]
    ) -> None:
        spec = varied(spec_with_dropout, max_steps=2)
        spec["stages"]["next"] = spec["stages"]["tune"]
        signal_at(signal.SIGTERM, 2)
        with pytest.raises(Interrupted, match=r"stopped by SIGTERM after stage 'tune', whose artifact is .*/tune; go"):
            lab.train(spec, tmp_path)
        assert (tmp_path / "tune" / "manifest.json").is_file()
        assert not (tmp_path / "next").exists()
        signal_at(signal.SIGTERM, 0)
        assert lab.train(spec, tmp_path, resume=True).manifest("next")["step"] == 2


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
            ("seed", 43, "spec.seed"),
            ("batch", {"size": 8, "micro": 2}, "spec.batch.size"),
            ("tuner", {"name": "lora", "rank": 2, "dropout": 0.2}, "spec.tuner.dropout"),
        ],
    )
    def test_another_stage(
        self, begun: Any, spec_with_dropout: dict[str, Any], field: str, value: Any, named: str
    ) -> None:
        with pytest.raises(
            ArtifactError, match=f"was trained with another spec: {named} differ \\({named} was .*, is .*\\); restore"
        ):
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

    def test_another_stage_before(
        self, lab: Any, spec_with_dropout: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the same name and spec, made by another run."""
        first = {**spec_with_dropout["stages"]["tune"], "max_steps": 1, "checkpoints": {}}
        stages = {"first": first, "tune": {**first, "max_steps": 3, "checkpoints": {"every": 1}}}
        spec = {**spec_with_dropout, "stages": stages}
        write = Metrics.write

        def fail(self: Metrics, entry: dict[str, Any]) -> None:
            if entry["step"] == 3:
                raise RuntimeError("power cut")
            write(self, entry)

        with monkeypatch.context() as patch:
            patch.setattr(Metrics, "write", fail)
            with pytest.raises(RuntimeError, match="power cut"):
                lab.train(spec, tmp_path)
        kept = shutil.copytree(tmp_path / "first", tmp_path / "kept")
        shutil.rmtree(tmp_path / "first")
        manifest = json.loads((kept / "manifest.json").read_text())
        shutil.copytree(kept, tmp_path / "first")
        (tmp_path / "first" / "manifest.json").write_text(json.dumps({**manifest, "note": "another"}))
        with pytest.raises(TrainingError, match=r"first is not the artifact any more that .*step-00000002 started"):
            lab.train(spec, tmp_path, resume=True)
        shutil.copy(kept / "manifest.json", tmp_path / "first")
        assert len(lab.train(spec, tmp_path, resume=True).losses("tune")) == 3

    def test_another_base(self, begun: Any, spec_with_dropout: dict[str, Any], tiny_language_model: Path) -> None:
        file = tiny_language_model / "model.safetensors"
        content = file.read_bytes()
        try:
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(TrainingError, match=rf"{file} changed since .*step-00000006 was written"):
                lensmith.train(spec_with_dropout, output=begun.folder, resume=True)
        finally:
            file.write_bytes(content)

    def test_other_rows(self, begun: Any, spec_with_dropout: dict[str, Any], rows: Path, tmp_path: Path) -> None:
        content = rows.read_bytes()
        try:
            rows.write_bytes(content + content.splitlines(keepends=True)[0])
            with pytest.raises(TrainingError, match=r"rows\.jsonl changed since .*step-00000006 was written"):
                lensmith.train(spec_with_dropout, output=begun.folder, resume=True)
        finally:
            rows.write_bytes(content)

    def test_another_number_of_ranks(
        self, begun: Any, spec_with_dropout: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checkpoint, "_is_sharded", lambda folder: True)
        file = begun.checkpoint("tune", 6) / "resume.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "world": 2}))
        with pytest.raises(
            TrainingError, match=r"was written by 2 ranks, .* this run has 1; resume with --nproc 2 .*start_from"
        ):
            lensmith.train(spec_with_dropout, output=begun.folder, resume=True)

    def test_nothing_to_resume(self, spec_with_dropout: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match=r"there is nothing to resume in .*; start without --resume"):
            lensmith.train(spec_with_dropout, output=tmp_path / "new", resume=True)

    def test_a_begun_run_is_not_overwritten(self, begun: Any, spec_with_dropout: dict[str, Any]) -> None:
        with pytest.raises(TrainingError, match="already holds tune; go on with --resume, choose another"):
            lensmith.train(spec_with_dropout, output=begun.folder)


class TestDamaged:
    """What of a checkpoint is missing or changed is found, and the one before is taken."""

    @pytest.mark.parametrize("content", ["", "{}", '{"world": 1, "files": ', '{"world": "x", "files": {}}'])
    def test_an_inventory_that_cannot_be_read(self, begun: Any, content: str) -> None:
        (begun.checkpoint("tune", 6) / "resume.json").write_text(content)
        self.expect(begun, r"step-00000006 is damaged: resume\.json cannot be read")

    @pytest.mark.parametrize("content", ["", '{"format": 1}', "[]", '{"format": 2}'])
    def test_a_manifest_that_cannot_be_read(self, begun: Any, content: str) -> None:
        (begun.checkpoint("tune", 6) / "manifest.json").write_text(content)
        self.expect(
            begun,
            r"manifest\.json(:1:|:)? (cannot be read|is damaged: it lacks|has format 2|not valid JSON|holds a list)",
        )

    @pytest.mark.parametrize(
        "file", ["manifest.json", "connector.safetensors", "resume/engine/mp_rank_00_model_states.pt"]
    )
    def test_a_changed_byte(self, begun: Any, file: str) -> None:
        path = begun.checkpoint("tune", 6) / file
        content = path.read_bytes()
        path.write_bytes(content.replace(b"0", b"1", 1))
        self.expect(begun, rf"{file} was changed \(its hash differs\)")

    def test_a_missing_file(self, begun: Any) -> None:
        (begun.checkpoint("tune", 6) / "resume" / "random-0.safetensors").unlink()
        self.expect(begun, r"resume/random-0\.safetensors is missing")

    def test_a_file_that_does_not_belong_there(self, begun: Any) -> None:
        """DeepSpeed reads every file whose name looks like a share of the state."""
        engine = begun.checkpoint("tune", 6) / "resume" / "engine"
        shutil.copy(engine / "mp_rank_00_model_states.pt", engine / "mp_rank_01_model_states.pt")
        self.expect(begun, r"resume/engine/mp_rank_01_model_states\.pt does not belong to it")

    def expect(self, run: Any, message: str) -> None:
        found = checkpoint.find(run.folder, "tune")
        assert found is not None
        assert found.folder == run.checkpoint("tune", 4)
        (told,) = found.damaged
        assert re.search(message, told), told

    def test_the_run_goes_on_from_the_one_before(
        self,
        lab: Any,
        begun: Any,
        spec_with_dropout: dict[str, Any],
        uninterrupted: Any,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (begun.checkpoint("tune", 6) / "resume" / "random-0.safetensors").write_bytes(b"")
        lab.train(spec_with_dropout, begun.folder, resume=True)
        told = capsys.readouterr().err
        assert "step-00000006 is damaged: resume/random-0.safetensors has 0 bytes, not " in told
        assert "; going on from step-00000004 instead" in told
        assert_as_if_nothing_had_happened(begun, uninterrupted)
        assert begun.checkpoints("tune") == [STEPS - 4, STEPS - 2]

    def test_where_all_are_damaged_nothing_is_resumed(self, begun: Any, spec_with_dropout: dict[str, Any]) -> None:
        for step in (4, 6):
            (begun.checkpoint("tune", step) / "resume" / "random-0.safetensors").unlink()
        with pytest.raises(TrainingError) as caught:
            lensmith.train(spec_with_dropout, output=begun.folder, resume=True)
        first, six, four, last = str(caught.value).splitlines()
        assert first == "no checkpoint of stage 'tune' is whole, so there is nothing to resume from:"
        assert "step-00000006 is damaged: resume/random-0.safetensors is missing" in six
        assert "step-00000004 is damaged" in four
        assert last.strip().startswith(f"delete {begun.folder}/checkpoints/tune and ")

    def test_the_newest_whole_one_is_kept_whatever_is_newer(
        self, lab: Any, begun: Any, spec_with_dropout: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One is to be kept; the run ends after step 5, when a damaged one of step 6 lies beside it."""
        damaged = begun.checkpoint("tune", 6) / "connector.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
        spec = varied(spec_with_dropout, checkpoints={"every": 1, "keep": 1})
        write = Metrics.write

        def stop(self: Metrics, entry: dict[str, Any]) -> None:
            if entry["step"] == 6:
                raise RuntimeError("power cut")
            write(self, entry)

        monkeypatch.setattr(Metrics, "write", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            lab.train(spec, begun.folder, resume=True)
        assert begun.checkpoints("tune") == [5, 6]
        found = checkpoint.find(begun.folder, "tune")
        assert found is not None
        assert found.folder == begun.checkpoint("tune", 5)

    def test_what_a_process_wrote_is_damaged_later(self, lab: Any, begun: Any) -> None:
        """What was whole once is looked at again when it was changed."""
        newest = begun.checkpoint("tune", 6)
        assert checkpoint.damage(newest) == []
        assert checkpoint.damage(newest) == []
        file = newest / "connector.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        assert checkpoint.damage(newest) == ["connector.safetensors was changed (its hash differs)"]


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


class TestPickles:
    """DeepSpeed unpickles what it reads; a checkpoint from somebody else must not run anything."""

    def plant(self, run: Any, content: Callable[[Path], None]) -> Path:
        """Put a state file in place and make the hashes fit, as whoever made it would."""
        folder = run.checkpoint("tune", 6)
        file = folder / "resume" / "engine" / "mp_rank_00_model_states.pt"
        content(file)
        listed = json.loads((folder / "resume.json").read_text())
        listed["files"] = files.inventory(folder / "resume")
        (folder / "resume.json").write_text(json.dumps(listed))
        assert checkpoint.damage(folder) == []
        return file

    @pytest.fixture
    def touched(self, tmp_path: Path) -> Path:
        return tmp_path / "touched"

    def test_the_payload_works(self, touched: Path, tmp_path: Path) -> None:
        """So that the tests below say something."""
        torch.save({"module": Payload(touched)}, tmp_path / "file.pt")
        torch.load(tmp_path / "file.pt", weights_only=False)
        assert touched.is_dir()

    @pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
    def test_it_is_found_before_anything_is_read(
        self, begun: Any, spec_with_dropout: dict[str, Any], touched: Path, form: str
    ) -> None:
        def write(file: Path) -> None:
            if form == "pickle":
                file.write_bytes(pickle.dumps(Payload(touched)))
            else:
                state = {"module": Payload(touched), "dp_world_size": 1}
                torch.save(state, file, _use_new_zipfile_serialization=form == "zip")

        file = self.plant(begun, write)
        with pytest.raises(TrainingError) as caught:
            lensmith.train(spec_with_dropout, output=begun.folder, resume=True)
        named = "posix.mkdir" if form == "zip" else "what torch.save did not write"
        assert str(caught.value).startswith(f"{file} is not read: it holds {named}")
        assert str(caught.value).endswith("delete the checkpoint unless you know who wrote it")
        assert not touched.exists()

    def test_nor_does_it_run_when_it_is_read(
        self, begun: Any, spec_with_dropout: dict[str, Any], touched: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lensmith.training import state_files

        monkeypatch.setattr(state_files, "refuse_foreign", lambda folder: "")
        file = self.plant(begun, lambda file: torch.save({"module": Payload(touched)}, file))
        with pytest.raises(TrainingError, match=f"{file.name} is not read: "):
            lensmith.train(spec_with_dropout, output=begun.folder, resume=True)
        assert not touched.exists()

    def test_what_would_not_be_read_is_not_written(self, touched: Path, tmp_path: Path) -> None:
        from lensmith.training.state_files import StateFiles

        written = StateFiles()
        written.save({"module": Payload(touched)}, str(tmp_path / "file.pt"))
        assert isinstance(written.failure, TrainingError)
        assert "posix.mkdir" in str(written.failure)
