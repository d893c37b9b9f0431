"""Where the numbers of a run go: the metrics file, the display, TensorBoard, Weights & Biases."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lensmith.errors import TrainingError
from lensmith.spec.build import load_spec
from lensmith.spec.check import check
from lensmith.spec.run import LoggingSpec
from lensmith.training.loggers import open_log
from lensmith.training.progress import Display, Metrics, Smoothed


def entry(step: int, loss: float = 2.0) -> dict[str, Any]:
    rates = {"connector": 1e-3, "lora": 2e-4}
    numbers = {"loss": loss, "lr": rates, "gradient_norm": None if step == 2 else 0.5}
    return {"step": step, **numbers, "targets": 4, "tokens": 100, "skipped": 0, "seconds": 0.25}


class TestMetrics:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        metrics = Metrics(tmp_path / "metrics" / "tune.jsonl", 0)
        for step in (1, 2, 3, 4):
            metrics.write({"step": step})
        metrics.close()
        return tmp_path / "metrics" / "tune.jsonl"

    def steps(self, file: Path) -> list[int]:
        return [json.loads(line)["step"] for line in file.read_text().splitlines()]

    def test_on_resume_it_goes_on_after_the_checkpoint(self, file: Path) -> None:
        node = file.stat().st_ino
        metrics = Metrics(file, 2)
        assert self.steps(file) == [1, 2]
        metrics.write({"step": 3})
        assert self.steps(file) == [1, 2, 3]
        assert file.stat().st_ino == node  # appended to, never written anew

    @pytest.mark.parametrize("torn", ['{"step": 5, "lo', '{"step": 5}', "\x00\x00\x00\n", "{}\n", "[]\n"])
    def test_a_torn_end_is_dropped(self, file: Path, torn: str) -> None:
        file.write_text(file.read_text() + torn)
        Metrics(file, 9).write({"step": 5})
        assert self.steps(file) == [1, 2, 3, 4, 5]

    def test_a_run_from_the_beginning_starts_anew(self, file: Path) -> None:
        Metrics(file, 0)
        assert file.read_bytes() == b""

    def test_numbers_that_json_has_not_are_refused(self, file: Path) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            Metrics(file, 4).write({"step": 5, "loss": float("nan")})


class TestDisplay:
    def test_lines_where_there_is_no_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        with Display("tune", 0, 4, enabled=True) as display:
            for step, loss in ((1, 4.0), (2, 2.0), (4, 2.0)):
                display.step(step, loss, 1e-3, 3000.0, 1.5)
        lines = capsys.readouterr().err.splitlines()
        assert lines == [  # one at once, then one every ten seconds, and the last
            "tune: step 1/4  loss 4.0000 (now 4.0000)  lr 1.00e-03  2,000 tokens/s  0:00:04 left",
            "tune: step 4/4  loss 2.6328 (now 2.0000)  lr 1.00e-03  2,000 tokens/s  0:00:00 left",
        ]

    def test_a_bar_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = io.StringIO()

        def console(**_: Any) -> Console:
            return Console(file=screen, force_terminal=True, width=160)

        monkeypatch.setattr("lensmith.training.progress.console", console)
        with Display("tune", 0, 200, enabled=True) as display:
            display.step(50, 4.0, 1e-3, 3000.0, 2.0)
            display.say("left out: a row")
        shown = screen.getvalue()
        for text in ("tune", "50/200", "loss 4.0000", "1,500 tokens/s", "0:05:00 left", "left out: a row"):
            assert text in shown

    def test_smoothing_has_no_start_value(self) -> None:
        mean = Smoothed(0.5)
        assert [mean.add(value) for value in (4.0, 1.0, 1.0)] == pytest.approx([4.0, 2.0, 10 / 7])


class TestLoggers:
    @pytest.fixture
    def interrupted(self, lab: Any, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        """A run that ends after step 4 and is resumed from a checkpoint at step 2."""

        def run(folder: Path, logging: dict[str, Any]) -> Any:
            stage = {"tuner": "frozen", "max_steps": 6, "checkpoints": {"every": 2, "keep": 9}}
            whole = {**lab.stages(spec, only=stage), "logging": logging}
            write = Metrics.write

            def fail(self: Metrics, numbers: dict[str, Any]) -> None:
                write(self, numbers)
                if numbers["step"] == 4:
                    raise RuntimeError("power cut")

            with monkeypatch.context() as patch:
                patch.setattr(Metrics, "write", fail)
                with pytest.raises(RuntimeError, match="power cut"):
                    lab.train(whole, folder)
            return lab.train(whole, folder, resume=True)

        return run

    def test_tensorboard(self, interrupted: Callable[..., Any], tmp_path: Path) -> None:
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        run = interrupted(tmp_path / "run", {"loggers": ["tensorboard"]})
        events = EventAccumulator(str(run.folder / "metrics" / "tensorboard" / "only"))
        events.Reload()
        assert set(events.Tags()["scalars"]) == {"loss", "lr/connector", "tokens_per_second", "gradient_norm"}
        losses = events.Scalars("loss")
        assert [point.step for point in losses] == [1, 2, 3, 4, 5, 6]
        assert [point.value for point in losses] == pytest.approx(run.losses("only"))
        assert [m["step"] for m in run.metrics("only")] == [1, 2, 3, 4, 5, 6]
        times = [m["time"] for m in run.metrics("only")]
        assert times == sorted(times)

    def test_weights_and_biases(
        self, interrupted: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("wandb", reason="wandb is not installed: pip install 'lensmith[wandb]'")
        monkeypatch.setenv("WANDB_MODE", "offline")
        run = interrupted(tmp_path / "run", {"loggers": ["wandb"], "project": "tests"})
        folder = run.folder / "metrics"
        name = (folder / "only.wandb").read_text().strip()
        records = sorted((folder / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
        assert len(records) == 2  # two processes' shares of one run
        assert [steps_of(file) for file in records] == [[1, 2, 3], [3, 4, 5, 6]]

    def test_only_the_first_rank_writes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = LoggingSpec(loggers=["tensorboard"])
        monkeypatch.setattr("lensmith.training.distributed.rank", lambda: 1)
        with open_log(spec, tmp_path, "only", 0, 2) as log:
            log.step(entry(1), ["left out: a row"])
        assert not list(tmp_path.iterdir())

    def test_the_file_is_there_without_loggers(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with open_log(LoggingSpec(), tmp_path, "only", 0, 2) as log:
            log.step(entry(1))
            log.step(entry(2), ["left out: a row"])
        written = [json.loads(line) for line in (tmp_path / "metrics" / "only.jsonl").read_text().splitlines()]
        assert [{k: v for k, v in line.items() if k != "time"} for line in written] == [entry(1), entry(2)]
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["only.jsonl"]
        assert "left out: a row\n" in capsys.readouterr().err

    @pytest.mark.parametrize("logger", ["tensorboard", "wandb"])
    def test_a_package_that_is_not_there(
        self, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str
    ) -> None:
        spec["logging"] = {"loggers": [logger]}
        with monkeypatch.context() as patch:
            patch.setattr("lensmith.spec.stage_check.find_spec", lambda name: None)
            (problem,) = check(load_spec(spec))
        remedy = f"{logger} is not installed; install it with: pip install 'lensmith[{logger}]'"
        assert (problem.path, problem.message) == ("logging.loggers.0", remedy)
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(TrainingError) as caught:
            open_log(LoggingSpec(loggers=[logger]), tmp_path, "only", 0, 2)
        assert str(caught.value) == f"logging.loggers: {remedy}"


def steps_of(file: Path) -> list[int]:
    """The steps in a file of Weights & Biases: LevelDB's log format behind seven bytes of header."""
    from wandb.proto import wandb_internal_pb2

    data, position, steps, whole = file.read_bytes(), 7, [], b""
    while position + 7 <= len(data):
        size, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        whole += data[position + 7 : position + 7 + size]
        position += 7 + size
        if (left := 32768 - position % 32768) < 7:
            position += left
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            if record.HasField("history"):
                steps.append(int(record.history.step.num))
    return steps
