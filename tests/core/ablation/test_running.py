"""A real study: trained, scored and reported by the command, interrupted and taken up again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lensmith.ablation.engine import prepare
from lensmith.ablation.executors import Local, Slurm, _command
from lensmith.ablation.scheduling import run_units
from lensmith.ablation.units import TrainUnit
from lensmith.cli.ablate import _executor
from lensmith.errors import SpecError

COMMAND = [sys.executable, "-m", "lensmith.cli", "ablate"]


@pytest.fixture
def study(spec: dict[str, Any], rows: Path, tmp_path: Path) -> Path:
    """Two ranks on one shared first stage, scored on the training pictures."""
    questions = [
        {"id": n, "image": f"{n}.png", "question": "What colour is it?", "answers": [c]}
        for n, c in enumerate(("red", "green", "blue"))
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    for stage in spec["stages"].values():
        stage["max_steps"] = 2
    (tmp_path / "base.json").write_text(json.dumps(spec))
    file = tmp_path / "study.json"
    file.write_text(
        json.dumps(
            {
                "base": "base.json",
                "axes": {"stages.tune.tuner.rank": [2, 4]},
                "benchmarks": [{"name": "vqa", "data": "questions.jsonl", "images": str(rows.parent)}],
            }
        )
    )
    return file


def test_a_study_that_is_stopped_and_taken_up_again(study: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen([*COMMAND, study, "--output", output], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("  done in"):
            break
    process.send_signal(signal.SIGTERM)  # the first stage is done, the second has begun
    said += process.stderr.readlines()
    assert process.wait() == 130, "".join(said)
    shared = list((output / "stages").glob("*/run/align/manifest.json"))
    assert len(shared) == 1
    stamp = shared[0].stat().st_mtime_ns

    done = subprocess.run([*COMMAND, study, "--output", output], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train tune") == 4  # begun and done, twice
    assert "train align" not in done.stderr
    assert shared[0].stat().st_mtime_ns == stamp
    assert done.stdout.strip() == str(output / "report" / "report.md")
    results = json.loads((output / "report" / "results.json").read_text())
    assert [list(v["scores"]) for v in results["variants"]] == [["vqa"], ["vqa"]]
    assert all(v["cost"]["seconds"] > 0 for v in results["variants"])

    again = subprocess.run([*COMMAND, study, "--output", output], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (0, "")


def unit(tmp_path: Path, name: str, needs: TrainUnit | None = None) -> TrainUnit:
    return TrainUnit(name, "tune", None, tmp_path / name, needs, [(name, 1)])  # type: ignore[arg-type]


class Recorder:
    """Stands where commands run; writes the artifact of those that are to succeed."""

    def __init__(self, workers: int, failing: str = "") -> None:
        self.workers, self.failing = workers, failing
        self.at_once = self.most = 0
        self.order: list[str] = []
        self.lock = threading.Lock()

    def run(self, arguments: list[str], log: Path) -> int:
        with self.lock:
            self.order.append(log.parent.name)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.05)
        with self.lock:
            self.at_once -= 1
        if log.parent.name == self.failing:
            return 3
        artifact = log.parent / "run" / "tune"
        artifact.mkdir(parents=True)
        (artifact / "manifest.json").write_text("{}")
        return 0

    def stop(self) -> None: ...


@pytest.mark.parametrize("workers", [1, 3])
def test_units_wait_for_what_they_need(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainUnit, "arguments", lambda self: [self.key])
    first = unit(tmp_path, "first")
    units = [first, *(unit(tmp_path, f"next-{n}", first) for n in range(3))]
    recorder = Recorder(workers)
    assert run_units(units, recorder, lambda _: None) == []
    assert recorder.order[0] == "first"
    assert recorder.most == workers


def test_a_failure_leaves_out_only_what_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainUnit, "arguments", lambda self: [self.key])
    bad, good = unit(tmp_path, "bad"), unit(tmp_path, "good")
    units = [bad, unit(tmp_path, "after-bad", bad), good, unit(tmp_path, "after-good", good)]
    recorder = Recorder(1, failing="bad")
    failures = run_units(units, recorder, lambda _: None)
    assert [(f.unit.folder.name, f.reason) for f in failures] == [
        ("bad", "exit code 3"),
        ("after-bad", "needs what failed: train tune (bad, seed 1)"),
    ]
    assert recorder.order == ["bad", "good", "after-good"]


def test_gpus_are_dealt_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, sys, time; print(os.environ['CUDA_VISIBLE_DEVICES'], sys.argv[1]); time.sleep(0.3)"
    monkeypatch.setattr(
        "lensmith.ablation.executors._command", lambda arguments, many: [sys.executable, "-c", code, str(many)]
    )
    executor = Local(gpus=["3", "5,6"])
    threads = [threading.Thread(target=executor.run, args=([], tmp_path / str(n) / "log")) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(tmp_path / str(n) / "log").read_text() for n in range(2)} == {"3 1\n", "5,6 2\n"}


@pytest.mark.parametrize(
    ("said", "groups"), [("0,1", ["0", "1"]), ("0-3, 4-7", ["0,1,2,3", "4,5,6,7"]), ("GPU-8a-1", ["GPU-8a-1"])]
)
def test_groups_of_gpus(said: str, groups: list[str], tmp_path: Path) -> None:
    executor = _executor(tmp_path, 1, said, [])
    assert isinstance(executor, Local)
    assert executor._free == groups
    assert executor.workers == len(groups)


def test_a_group_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'3-1' ends before it begins"):
        _executor(tmp_path, 1, "3-1", [])


def test_a_process_for_each_device() -> None:
    assert _command(["train", "x"], 4)[-3:] == ["x", "--nproc", "4"]
    assert _command(["train", "x"], 1)[-1] == "x"


def test_commands_at_once_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; print(os.environ.get('OMP_NUM_THREADS'))"
    monkeypatch.setattr("lensmith.ablation.executors._command", lambda arguments, many: [sys.executable, "-c", code])
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    for said, (jobs, expected) in {None: (2, "3"), "5": (2, "5"), "": (1, "None")}.items():
        if said:
            monkeypatch.setenv("OMP_NUM_THREADS", said)
        else:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        log = tmp_path / f"{said}.txt"
        assert Local(jobs).run([], log) == 0
        assert log.read_text().strip() == expected


def test_through_submitit(tmp_path: Path) -> None:
    """Its local cluster: real jobs in real processes, without SLURM."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'lensmith[slurm]'")
    executor = Slurm(tmp_path / "slurm", jobs=1, options={"timeout_min": 5}, cluster="local")
    assert executor.run(["list", "--kind", "tuner"], tmp_path / "log") == 0
    assert "lora" in (tmp_path / "log").read_text()
    assert executor.run(["show", "tuner", "nothing"], tmp_path / "log") == 2


def test_dry_run(study: Path, tmp_path: Path) -> None:
    shown = subprocess.run([*COMMAND, study, "--dry-run"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "3 stages to train instead of 4" in shown.stdout
    assert "shares align" in shown.stdout
    assert not (tmp_path / "runs").exists()
    assert prepare(study, tmp_path).work.units()[0].done is False


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_N5_the_command_refuses_a_study_with_one_wrong_variant(study: Path, tmp_path: Path, more: Any) -> None:
    told = json.loads(study.read_text())
    told["axes"] = {"batch": {"good": {}, "odd": {"stages.tune.batch.micro": 3}}}
    told["benchmarks"].append({"name": "vqa", "label": "gone", "data": "nowhere.jsonl"})
    study.write_text(json.dumps(told))
    done = subprocess.run([*COMMAND, study, *more], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "stages.tune.batch.micro: variant 'batch odd': " in done.stderr
    assert f"benchmarks.gone: {tmp_path / 'nowhere.jsonl'} does not exist" in done.stderr
    assert not (tmp_path / "runs").exists()
