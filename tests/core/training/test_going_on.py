"""What ends a run early, and what may change when it goes on."""

from __future__ import annotations

import copy
import json
import shutil
import signal
import socket
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith.errors import ArtifactError, Interrupted, TrainingError
from lensmith.spec.build import load_spec
from lensmith.spec.check import check
from lensmith.spec.deepspeed_json import SECTIONS, TOP, json_problems
from lensmith.spec.network_loggers import wandb_obstacle, wandb_server
from lensmith.spec.run import LoggingSpec, StageSpec
from lensmith.training import checkpoint, launch, memory
from lensmith.training.engine import Engine
from lensmith.training.feed import Split
from lensmith.training.loggers import Logger, StepLog, WeightsAndBiases, open_log, prepare, within
from lensmith.training.progress import Display, Metrics

STEPS = 6


@pytest.fixture(scope="module")
def plain(model_spec: dict[str, Any], rows: Path) -> dict[str, Any]:
    stage = {
        "tuner": {"name": "lora", "rank": 2},
        "data": {"sources": [{"path": str(rows)}]},
        "lr": 1e-2,
        "max_steps": STEPS,
        "batch": {"size": 4, "micro": 4},
        "schedule": {"decay": "constant", "warmup_ratio": 0.0},
        "precision": "fp32",
        "checkpoints": {"every": 2, "keep": 9},
    }
    return {"model": model_spec, "stages": {"tune": stage}}


def varied(spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(spec)
    changed["stages"]["tune"].update(changes)
    return changed


@pytest.fixture(scope="module")
def whole(lab: Any, plain: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lab.train(plain, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def begun(lab: Any, whole: Any, tmp_path: Path) -> Any:
    """The run as it was after step 4, with checkpoints of steps 2 and 4."""
    shutil.copytree(whole.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "tune")
    return lab.run(tmp_path / "run")


def fail_at(patch: pytest.MonkeyPatch, call: int, error: Callable[[], Exception]) -> None:
    """The forward of that number, counted from 1, fails."""
    forward, calls = Engine.forward, [0]

    def counted(self: Engine, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise error()
        return forward(self, *args, **kwargs)

    patch.setattr(Engine, "forward", counted)


def real_failure() -> Exception:
    """What torch says of memory that no machine has."""
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("there is no such machine")


class TestMemory:
    @pytest.mark.parametrize(
        "error",
        [real_failure, MemoryError, lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")],
    )
    def test_T13_the_state_is_saved_and_what_would_fit_is_said(
        self, lab: Any, plain: dict[str, Any], whole: Any, tmp_path: Path, error: Callable[[], Exception]
    ) -> None:
        spec = varied(plain, checkpoints={})
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, 4, error)
            with pytest.raises(TrainingError) as caught:
                lab.train(spec, tmp_path / "run")
        text = str(caught.value)
        assert "stage 'tune': no memory for step 4" in text
        assert "stages.tune.batch.micro=2 (it is 4; a step keeps its 4 rows)" in text
        assert "stages.tune.activation_checkpointing=true" in text
        assert "Steps up to 3 are saved; go on with --resume" in text
        assert "\n" not in text
        run = lab.train(varied(spec, batch={"size": 4, "micro": 2}), tmp_path / "run", resume=True)
        assert run.losses("tune") == pytest.approx(whole.losses("tune"), rel=1e-4)

    def test_T13_in_the_middle_of_a_step(self, lab: Any, plain: dict[str, Any], whole: Any, tmp_path: Path) -> None:
        spec = varied(plain, checkpoints={}, batch={"size": 4, "micro": 2})
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, 6, real_failure)  # the second micro-batch of the third step
            with pytest.raises(TrainingError, match=r"no memory for step 3 .* Steps up to 2 are saved"):
                lab.train(spec, tmp_path / "run")
        run = lab.train(spec, tmp_path / "run", resume=True)
        assert run.losses("tune") == pytest.approx(whole.losses("tune"), rel=1e-4)

    def test_T13_before_the_first_step(
        self, lab: Any, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise real_failure()

        monkeypatch.setattr("lensmith.training.stages.build_optimizer", fail)
        with pytest.raises(TrainingError, match=r"no memory for the model and its optimiser .* what takes less: "):
            lab.train(plain, tmp_path / "run")

    def test_T13_other_errors_are_not_taken_for_it(
        self, lab: Any, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fail_at(monkeypatch, 2, lambda: RuntimeError("shapes do not match"))
        with pytest.raises(RuntimeError, match="shapes do not match"):
            lab.train(plain, tmp_path / "run")

    @pytest.mark.parametrize(
        ("error", "known"),
        [
            (OSError(12, "Cannot allocate memory"), True),
            (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
            (RuntimeError("std::bad_alloc"), True),
            (RuntimeError("HIP out of memory"), True),
            (OSError(2, "No such file"), False),
            (ValueError("out of memory"), False),
            (KeyError("memory"), False),
        ],
    )
    def test_T13_what_says_so(self, error: Exception, known: bool) -> None:
        assert memory.is_out_of_memory(error) == known

    def test_T13_advice_is_of_the_stage(self) -> None:
        stage = StageSpec.model_construct(
            **{name: f.get_default(call_default_factory=True) for name, f in StageSpec.model_fields.items()}
        )
        one = memory.advice("tune", stage, Split(size=8, micro=1, accumulation=8, rank=0, world=1))
        assert "batch.micro" not in one
        several = memory.advice("tune", stage, Split(size=24, micro=6, accumulation=2, rank=0, world=2))
        assert "stages.tune.batch.micro=3 (it is 6; a step keeps its 24 rows)" in several
        assert "stages.tune.deepspeed.zero=1" in several


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGTERM", "SIGHUP"])
def test_T8_what_schedulers_send_is_saved(
    name: str, lab: Any, plain: dict[str, Any], whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = signal.Signals[name]
    spec = varied(plain, checkpoints={})
    write, before = Metrics.write, signal.signal(number, signal.SIG_DFL)

    def struck(self: Metrics, entry: dict[str, Any]) -> None:
        write(self, entry)
        if entry["step"] == 3:
            signal.raise_signal(number)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Metrics, "write", struck)
            with pytest.raises(Interrupted, match=f"stopped by {name} after step 3 of {STEPS}; the checkpoint is"):
                lab.train(spec, tmp_path / "run")
    finally:
        signal.signal(number, before)
    assert lab.train(spec, tmp_path / "run", resume=True).losses("tune") == whole.losses("tune")


def test_T8_other_machines_get_what_their_launcher_passes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {signal.SIGUSR1, signal.SIGUSR2} <= set(launch.SIGNALS)
    assert not {signal.SIGUSR1, signal.SIGUSR2} & launch._PASSED_ON


class TestGoingOn:
    @pytest.mark.parametrize(
        "changes",
        [
            {"batch": {"size": 4, "micro": 2}},
            {"batch": {"size": 4}},
            {"batch": {"size": 4, "micro": 4, "packing": "off"}},
            {"activation_checkpointing": True},
            {"checkpoints": {}},
            {"data_workers": 1},
        ],
    )
    def test_T9_what_does_not_change_the_mathematics_may_change(
        self, lab: Any, plain: dict[str, Any], begun: Any, whole: Any, changes: dict[str, Any]
    ) -> None:
        spec = varied(plain)
        if changes.pop("data_workers", None):
            spec["stages"]["tune"]["data"]["workers"] = 1
        run = lab.train(varied(spec, **changes), begun.folder, resume=True)
        assert run.losses("tune") == pytest.approx(whole.losses("tune"), rel=1e-4)

    def test_T9_loggers_may_change(self, lab: Any, plain: dict[str, Any], begun: Any, whole: Any) -> None:
        pytest.importorskip("tensorboard")
        run = lab.train({**plain, "logging": {"loggers": ["tensorboard"]}}, begun.folder, resume=True)
        assert run.losses("tune") == whole.losses("tune")

    def test_T9_more_steps_go_on(self, lab: Any, plain: dict[str, Any], begun: Any, whole: Any, capfd: Any) -> None:
        run = lab.train(varied(plain, max_steps=STEPS + 3), begun.folder, resume=True)
        assert run.losses("tune")[:STEPS] == whole.losses("tune")
        assert len(run.losses("tune")) == STEPS + 3
        told = f"going on from step-00000004 with stages.tune.max_steps {STEPS + 3} (it was {STEPS})"
        assert told in capfd.readouterr().err

    def test_T9_more_epochs_go_on(self, lab: Any, plain: dict[str, Any], tmp_path: Path) -> None:
        spec = varied(plain, max_steps=None, epochs=1, checkpoints={"every": 1, "keep": 9})
        run = lab.train(spec, tmp_path / "run")
        steps = len(run.losses("tune"))
        shutil.rmtree(tmp_path / "run" / "tune")
        longer = lab.train(varied(spec, epochs=2), tmp_path / "run", resume=True)
        assert longer.losses("tune")[: steps - 1] == run.losses("tune")[: steps - 1]
        assert len(longer.losses("tune")) == 2 * steps - (4 * (2 * steps - 1) >= 2 * 14)

    def test_T9_fewer_steps_than_are_done_are_refused(self, plain: dict[str, Any], begun: Any) -> None:
        with pytest.raises(TrainingError, match=r"step-00000004 has 4 steps already, stages.tune asks for 3"):
            lensmith.train(varied(plain, max_steps=3), output=begun.folder, resume=True)

    def test_T9_a_finished_stage_is_not_taken_for_a_longer_one(self, plain: dict[str, Any], whole: Any) -> None:
        with pytest.raises(ArtifactError, match=r"tune is finished.*spec\.max_steps was 6, is 9.*delete .*tune"):
            lensmith.train(varied(plain, max_steps=9), output=whole.folder, resume=True)

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"batch": {"size": 8, "micro": 4}}, "spec.batch.size"),
            ({"lr": 1e-3}, "spec.lr"),
            ({"tf32": True}, "spec.tf32"),
            ({"loss": "micro_batches", "batch": {"size": 4, "micro": 2}}, "spec.batch.micro, spec.loss"),
        ],
    )
    def test_T9_what_changes_it_is_refused(
        self, plain: dict[str, Any], begun: Any, changes: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(ArtifactError, match=f"another spec: {named} differ"):
            lensmith.train(varied(plain, **changes), output=begun.folder, resume=True)

    def test_T9_another_number_of_ranks_where_nothing_is_sharded(
        self, lab: Any, plain: dict[str, Any], begun: Any, whole: Any
    ) -> None:
        """Without ZeRO every rank reads the same state; without dropout the losses are the same, too."""
        file = begun.checkpoint("tune", 4) / "resume.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "world": 2}))
        run = lab.train(plain, begun.folder, resume=True)
        assert run.losses("tune") == whole.losses("tune")

    def test_N16_another_runs_folder(self, plain: dict[str, Any], whole: Any) -> None:
        other = {**plain, "stages": {"mine": plain["stages"]["tune"]}}
        with pytest.raises(TrainingError, match=r"is of another run: it holds tune, and this spec has mine; give this"):
            lensmith.train(other, output=whole.folder, resume=True)
        with pytest.raises(TrainingError, match=r"tune is an artifact, and a run is a folder of them"):
            lensmith.train(other, output=whole.folder / "tune")

    def test_T9_sharded_state_is_refused_with_the_reason(self, lab: Any, plain: dict[str, Any], tmp_path: Path) -> None:
        spec = varied(plain, deepspeed={"zero": 1}, max_steps=3)
        run = lab.train(spec, tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "tune")
        file = run.checkpoint("tune", 2) / "resume.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "world": 2}))
        assert checkpoint._is_sharded(run.checkpoint("tune", 2))
        with pytest.raises(TrainingError, match=r"by 2 ranks, each with its share of the state \(ZeRO\)"):
            lensmith.train(spec, output=tmp_path / "run", resume=True)


class TestDeepSpeedJson:
    @pytest.mark.parametrize(
        ("content", "zero", "message"),
        [
            ({"zero_optimisation": {"stage": 2}}, 2, "Did you mean zero_optimization?"),
            ({"zero_optimization": {"overlapcomm": True}}, 2, "Did you mean zero_optimization.overlap_comm?"),
            ({"amp": {"enabled": True}}, 2, "sets amp, which does nothing here; remove it there (set precision)"),
            ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, 0, "which ZeRO-0 does not do"),
            ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, 2, "which is of ZeRO-3 alone"),
            ({"zero_optimization": {"stage3_max_live_parameters": 1e9}}, 2, "which is of ZeRO-3 alone"),
            ({"zero_optimization": {"offload_param": {"device": "gpu"}}}, 3, "should be cpu, nvme or none"),
            ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, 3, "nvme_path is needed"),
            ({"zero_optimization": {"offload_optimizer": {"devise": "cpu"}}}, 2, "offload_optimizer.device?"),
            ({"zero_optimization": {"cpu_offload": True}}, 2, "write offload_optimizer: {device: cpu}"),
            ({"zero_optimization": {"overlap_comm": "yes"}}, 2, "should be true or false"),
            ({"zero_optimization": {"reduce_bucket_size": True}}, 2, "should be a whole number"),
            ({"zero_optimization": {"reduce_bucket_size": "5e8"}}, 2, "should be a whole number"),
            ({"zero_optimization": {"reduce_bucket_size": -5}}, 2, "should be a whole number"),
            ({"zero_optimization": True}, 2, "should be an object"),
            ({"zero_optimization": {"stage": "2"}}, 2, "should be a whole number"),
            ({"zero_optimization": {"stage": True}}, 1, "says ZeRO stage True"),
            ({"fp16": {"loss_scal": 0}}, 2, "Did you mean fp16.loss_scale?"),
            ({"bfloat16": {"enabled": True}}, 2, "old name of bf16"),
            ({"activation_checkpointing": {"partition_activations": True}}, 2, "set activation_checkpointing"),
            ({"wandb": {"enabled": True}}, 2, "set logging.loggers"),
            ({"gradient_clipping": 1.0}, 2, "set stages.tune.gradient_clipping"),
            ({"scheduler": {"type": "WarmupLR"}}, 2, "set stages.tune.schedule"),
            ({"zero_force_ds_cpu_optimizer": True}, 2, "DeepSpeed's own optimiser"),
            ({"x" * 100_000: 1}, 2, "does not know"),
        ],
    )
    def test_T6_is_named_by_check(
        self, lab: Any, plain: dict[str, Any], tmp_path: Path, content: Any, zero: int, message: str
    ) -> None:
        file = tmp_path / "ds.json"
        file.write_text(json.dumps(content))
        spec = varied(plain, deepspeed={"zero": zero, "config": str(file)})
        problems = check(load_spec(spec))
        assert problems
        assert all(problem.path == "stages.tune.deepspeed.config" for problem in problems)
        assert any(message in problem.message for problem in problems), [p.message for p in problems]
        assert all(len(problem.message) < 500 for problem in problems)

    @pytest.mark.parametrize("zero", [2, 3])
    def test_T6_what_others_use_is_taken(self, plain: dict[str, Any], zero: int) -> None:
        """The files that LLaVA's and transformers' examples have."""
        auto = dict.fromkeys(
            ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps"), "auto"
        )
        half = {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16}
        common = {
            "overlap_comm": True,
            "contiguous_gradients": True,
            "sub_group_size": 1e9,
            "reduce_bucket_size": "auto",
        }
        three = {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_max_live_parameters": 1e9,
            "stage3_gather_16bit_weights_on_model_save": True,
            "offload_param": {"device": "none"},
        }
        config = {
            **auto,
            "fp16": {**half, "hysteresis": 2, "min_loss_scale": 1},
            "bf16": {"enabled": "auto"},
            "zero_optimization": {"stage": zero, **common, **(three if zero == 3 else {})},
            "gradient_clipping": "auto",
            "steps_per_print": 2000,
            "wall_clock_breakdown": False,
            "amp": {"enabled": "auto"},
            "tensorboard": {"enabled": False},
        }
        stage = load_spec(varied(plain, deepspeed={"zero": zero})).stages["tune"]
        assert list(json_problems("stages.tune.deepspeed.config", "ds.json", config, stage)) == []

    def test_T6_keys_are_those_of_the_installed_deepspeed(self) -> None:
        from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
        from deepspeed.runtime.zero.offload_config import (
            DeepSpeedZeroOffloadOptimizerConfig,
            DeepSpeedZeroOffloadParamConfig,
        )

        theirs = {
            "zero_optimization": DeepSpeedZeroConfig,
            "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
            "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
            "bf16": DeepSpeedBF16Config,
            "fp16": DeepSpeedFP16Config,
        }
        old = {"cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory"}
        for section, model in theirs.items():
            names = {field.alias or name for name, field in model.model_fields.items()}
            assert names - old <= set(SECTIONS[section]), (section, names - old - set(SECTIONS[section]))
        assert set(TOP) >= {"zero_optimization", "bf16", "fp16"}


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_ANONYMOUS", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return monkeypatch


class TestNetworkLoggers:
    def test_T7_no_login_is_told_by_check(self, no_login: pytest.MonkeyPatch, spec: dict[str, Any]) -> None:
        no_login.setattr("lensmith.spec.stage_check.find_spec", lambda name: name)
        (problem,) = check(load_spec({**spec, "logging": {"loggers": ["wandb"]}}))
        assert problem.path == "logging.loggers.0"
        assert "run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline" in problem.message

    @pytest.mark.parametrize(
        ("variable", "value"),
        [("WANDB_MODE", "offline"), ("WANDB_MODE", "disabled"), ("WANDB_API_KEY", "x" * 40)],
    )
    def test_T7_no_login_is_needed(self, no_login: pytest.MonkeyPatch, variable: str, value: str) -> None:
        assert wandb_obstacle()
        no_login.setenv(variable, value)
        assert not wandb_obstacle()

    def test_T7_a_stored_login_is_seen(self, no_login: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
        assert not wandb_obstacle()
        no_login.setenv("WANDB_BASE_URL", "https://wandb.example.org:8443")
        assert wandb_server() == ("wandb.example.org", 8443)
        assert wandb_obstacle()

    def test_T7_without_network_records_stay_here(self, no_login: pytest.MonkeyPatch, capfd: Any) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
            no_login.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
            no_login.setenv("WANDB_MODE", "online")
            began = time.monotonic()
            prepare(LoggingSpec(loggers=["wandb"]))
        assert time.monotonic() - began < 10
        import os

        assert os.environ["WANDB_MODE"] == "offline"
        assert "cannot be reached" in capfd.readouterr().err

    def test_T7_a_logger_that_fails_to_start_ends_nothing(
        self, no_login: pytest.MonkeyPatch, tmp_path: Path, capfd: Any
    ) -> None:
        wandb = types.ModuleType("wandb")

        def init(**_: Any) -> None:
            raise RuntimeError("api key not configured (no-tty)\nmore")

        wandb.init = init  # type: ignore[attr-defined]
        no_login.setitem(sys.modules, "wandb", wandb)
        with open_log(LoggingSpec(loggers=["wandb"]), tmp_path, "only", 0, 1) as log:
            assert not any(isinstance(logger, WeightsAndBiases) for logger in log.loggers)
        told = capfd.readouterr().err
        assert "wandb cannot be used: api key not configured (no-tty); the run goes on without it" in told

    @pytest.mark.parametrize("when", ["write", "close"])
    def test_T7_a_logger_that_fails_later_ends_nothing(self, when: str, capfd: Any) -> None:
        class Broken:
            def write(self, entry: dict[str, Any]) -> None:
                if when == "write":
                    raise ConnectionError("gone")

            def close(self) -> None:
                if when == "close":
                    raise ConnectionError("gone")

        seen: list[dict[str, Any]] = []
        good = types.SimpleNamespace(write=seen.append, close=lambda: None)
        loggers: list[Logger] = [Broken(), good]
        entry = {"step": 1, "loss": 1.0, "lr": {"a": 1.0}, "tokens": 1, "seconds": 1.0}
        with StepLog(Display("only", 0, 2, enabled=True), loggers) as log:
            log.step(entry)
            log.step({**entry, "step": 2})
        assert [e["step"] for e in seen] == [1, 2]
        assert capfd.readouterr().err.count("Broken failed: gone; the run goes on without it") == 1

    def test_T7_nobody_waits_for_a_logger(self) -> None:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            within(0.2, lambda: time.sleep(20))
        assert time.monotonic() - began < 10
