"""Choices of a stage: optimiser, schedule, precision, recomputation, offload, steps; and what is refused."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import lensmith
from lensmith.cli.app import app
from lensmith.errors import DataError, LensmithError, TrainingError
from lensmith.interfaces.tuner import ParameterGroup
from lensmith.spec.build import load_spec
from lensmith.spec.check import check
from lensmith.spec.run import ScheduleSpec, StageSpec
from lensmith.training import hardware
from lensmith.training.engine import Engine, deepspeed_config
from lensmith.training.feed import Split
from lensmith.training.hardware import require_hardware
from lensmith.training.optimizer import build_optimizer
from lensmith.training.schedule import factor

FULL = {"name": "full", "vision_encoder": True}
QUICK = {"tuner": FULL, "batch": {"size": 4, "micro": 2}, "max_steps": 3, "schedule": {"warmup_ratio": 0.0}}


@pytest.fixture
def stage(lab: Any, spec: dict[str, Any]) -> Callable[..., StageSpec]:
    def make(**chosen: Any) -> StageSpec:
        return load_spec(lab.stages(spec, only={**QUICK, **chosen})).stages["only"]

    return make


@pytest.fixture(scope="module")
def sharded_in_full(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A JSON with which ZeRO-3 keeps no small tensor whole; other trainers' `auto` is left aside."""
    file = tmp_path_factory.mktemp("deepspeed") / "zero3.json"
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": "auto"}
    file.write_text(json.dumps({"zero_optimization": zero, "fp16": {"enabled": "auto"}, "optimizer": "auto"}))
    return str(file)


class TestSchedule:
    def test_warm_up_by_steps(self) -> None:
        schedule = ScheduleSpec(decay="constant", warmup_ratio=0.5, warmup_steps=4)
        assert [factor(schedule, step, 100) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
        assert factor(ScheduleSpec(warmup_ratio=0.5, warmup_steps=0), 0, 100) == 1.0

    @pytest.mark.parametrize("decay", ["cosine", "linear"])
    def test_it_ends_at_the_minimum(self, decay: Any) -> None:
        schedule = ScheduleSpec(decay=decay, warmup_steps=0, minimum_ratio=0.1)
        rates = [factor(schedule, step, 10) for step in range(11)]
        assert rates[0] == 1.0
        assert rates[5] == pytest.approx(0.55)
        assert rates[-1] == pytest.approx(0.1)
        assert all(later < earlier for earlier, later in pairwise(rates))


class TestOptimizers:
    @pytest.fixture
    def net(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))

    @pytest.mark.parametrize(
        ("chosen", "made"),
        [
            ({}, "torch.optim.AdamW"),
            ({"name": "sgd", "momentum": 0.5}, "torch.optim.SGD"),
            ({"name": "adafactor"}, "torch.optim.Adafactor"),
            ({"name": "adamw_8bit"}, "bitsandbytes.optim.AdamW8bit"),
            ({"name": "paged_adamw"}, "bitsandbytes.optim.PagedAdamW"),
            ({"name": "paged_adamw_8bit"}, "bitsandbytes.optim.PagedAdamW8bit"),
        ],
    )
    def test_classes_and_decay(
        self, net: torch.nn.Module, stage: Callable[..., StageSpec], chosen: dict[str, Any], made: str
    ) -> None:
        if made.startswith("bitsandbytes"):
            pytest.importorskip("bitsandbytes")
        names = tuple(name for name, _ in net.named_parameters())
        spec = stage(optimizer={**chosen, "weight_decay": 0.1}, lr=0.5)
        optimizer = build_optimizer(net, [ParameterGroup("all", names)], spec)
        module, _, name = made.rpartition(".")
        assert type(optimizer).__module__.startswith(module)
        assert type(optimizer).__name__ == name
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert [decay[id(p)] for p in net.parameters()] == [0.1, 0.0, 0.0, 0.0]  # weight, bias, norm's two
        assert {group["lr"] for group in optimizer.param_groups} == {0.5}
        assert optimizer.param_groups[0].get("momentum", 0.5) == 0.5

    def test_sgd_steps_along_the_gradient(self, lab: Any, spec: dict[str, Any], tmp_path: Path) -> None:
        chosen = {**QUICK, "tuner": "frozen", "max_steps": 1, "lr": 0.1, "optimizer": {"name": "sgd"}}
        run = lab.train(lab.stages(spec, only=chosen), tmp_path / "run")
        before = lensmith.assemble(spec, seed=42).connector.state_dict()
        after = {name.split(":")[1]: tensor for name, tensor in run.weights("only").items()}
        moved = math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in after))
        assert moved == pytest.approx(0.1 * run.metrics("only")[0]["gradient_norm"], rel=1e-4)

    def test_adafactor_learns(self, lab: Any, spec: dict[str, Any], tmp_path: Path) -> None:
        chosen = {**QUICK, "tuner": "frozen", "lr": 0.3, "optimizer": {"name": "adafactor"}, "max_steps": 12}
        losses = lab.train(lab.stages(spec, only=chosen), tmp_path / "run").losses("only")
        assert losses[-1] < losses[0]

    def test_eight_bits_follow_and_resume(
        self, lab: Any, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("bitsandbytes")
        from lensmith.training.progress import Metrics

        sharded = {**QUICK, "deepspeed": {"zero": 2}, "max_steps": 6}
        eight = {**sharded, "optimizer": {"name": "adamw_8bit"}, "checkpoints": {"every": 2}}
        full = lab.train(lab.stages(spec, only=sharded), tmp_path / "full")
        whole = lab.train(lab.stages(spec, only=eight), tmp_path / "whole")
        assert whole.losses("only") == pytest.approx(full.losses("only"), rel=1e-2)
        assert whole.losses("only") != full.losses("only")
        write = Metrics.write

        def fail(self: Metrics, entry: dict[str, Any]) -> None:
            if entry["step"] == 4:
                raise RuntimeError("power cut")
            write(self, entry)

        with monkeypatch.context() as patch:
            patch.setattr(Metrics, "write", fail)
            with pytest.raises(RuntimeError, match="power cut"):
                lab.train(lab.stages(spec, only=eight), tmp_path / "run")
        resumed = lab.train(lab.stages(spec, only=eight), tmp_path / "run", resume=True)
        assert resumed.losses("only") == whole.losses("only")


class TestActivationCheckpointing:
    @pytest.mark.parametrize("zero", [0, 3])
    @pytest.mark.parametrize("tuner", [FULL, {"name": "lora", "rank": 2, "dropout": 0.2, "connector": False}])
    def test_the_same_gradients_from_twice_the_forwards(
        self,
        lab: Any,
        spec: dict[str, Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        sharded_in_full: str,
        tuner: dict[str, Any],
        zero: int,
    ) -> None:
        from transformers.models.clip.modeling_clip import CLIPMLP
        from transformers.models.llama.modeling_llama import LlamaMLP

        calls = {LlamaMLP: 0, CLIPMLP: 0}
        for kind in calls:
            forward = kind.forward

            def counted(self: Any, hidden: Any, forward: Any = forward, kind: Any = kind) -> Any:
                calls[kind] += 1
                return forward(self, hidden)

            monkeypatch.setattr(kind, "forward", counted)
        monkeypatch.setattr(Engine, "_trial", lambda self: 0.0)  # looks at the loss once more before it is saved
        deepspeed = {"zero": 3, "config": sharded_in_full} if zero else {}
        chosen = {**QUICK, "tuner": tuner, "deepspeed": deepspeed, "lr": 1e-2}
        plain = lab.train(lab.stages(spec, only=chosen), tmp_path / "plain")
        once = dict(calls)
        capfd.readouterr()
        again = lab.train(lab.stages(spec, only={**chosen, "activation_checkpointing": True}), tmp_path / "again")
        assert calls[LlamaMLP] - once[LlamaMLP] == 2 * once[LlamaMLP] > 0
        encoder = tuner is FULL  # a frozen one keeps nothing that could be saved
        assert calls[CLIPMLP] - once[CLIPMLP] == (2 if encoder else 1) * once[CLIPMLP] > 0
        said = "pass: language_model, vision_encoder\n" if encoder else "pass: language_model\n"
        assert f"computes activations again in the backward {said}" in capfd.readouterr().err
        for one, two in zip(plain.metrics("only"), again.metrics("only"), strict=True):
            assert (one["loss"], one["gradient_norm"]) == (two["loss"], two["gradient_norm"])

    def test_a_model_that_cannot(
        self, lab: Any, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lensmith_plugins.language_models.hf import HfCausalLanguageModel

        monkeypatch.delattr(HfCausalLanguageModel, "checkpoint_activations")
        chosen = {**QUICK, "tuner": "frozen", "activation_checkpointing": True}
        with pytest.raises(TrainingError, match=r"stages.only.activation_checkpointing: no part .* set it to false"):
            lab.train(lab.stages(spec, only=chosen), tmp_path / "run")


class TestCompilation:
    @pytest.mark.slow
    @pytest.mark.parametrize("packing", ["auto", "off"])
    def test_the_same_steps(self, lab: Any, spec: dict[str, Any], tmp_path: Path, packing: str) -> None:
        """One graph for rows of any length, each compiled once."""
        from torch._dynamo.utils import counters

        chosen = {**QUICK, "max_steps": 6, "batch": {"size": 4, "packing": packing}}
        plain = lab.train(lab.stages(spec, only=chosen), tmp_path / "plain")
        counters.clear()
        compiled = lab.train(lab.stages(spec, only={**chosen, "compile": True}), tmp_path / "compiled")
        graphs = counters["stats"]["unique_graphs"]
        assert 0 < graphs <= 8
        for one, two in zip(plain.metrics("only"), compiled.metrics("only"), strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)

    def test_a_model_that_cannot(
        self, lab: Any, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lensmith_plugins.language_models.hf import HfCausalLanguageModel

        monkeypatch.delattr(HfCausalLanguageModel, "compile_blocks")
        with pytest.raises(TrainingError, match=r"stages\.only\.compile: this language model has no blocks"):
            lab.train(lab.stages(spec, only={**QUICK, "tuner": "frozen", "compile": True}), tmp_path / "run")

    def test_not_where_weights_are_sharded(self, lab: Any, spec: dict[str, Any]) -> None:
        (problem,) = check(load_spec(lab.stages(spec, only={**QUICK, "compile": True, "deepspeed": {"zero": 3}})))
        assert problem.path == "stages.only.compile"

    def test_fp32_products(self, lab: Any, spec: dict[str, Any], tmp_path: Path) -> None:
        """Exact unless the spec says otherwise; torch alone would let convolutions be in TF32."""
        for tf32, kind in ((True, "tf32"), (False, "ieee")):
            stage = {**QUICK, "tuner": "frozen", "max_steps": 1, "tf32": tf32}
            lab.train(lab.stages(spec, only=stage), tmp_path / kind)
            assert torch.backends.cuda.matmul.fp32_precision == kind
            assert torch.backends.cudnn.conv.fp32_precision == kind


class TestOffload:
    def test_configuration(self, stage: Callable[..., StageSpec], tmp_path: Path) -> None:
        file = tmp_path / "deepspeed.json"
        theirs = {"offload_optimizer": {"device": "none", "buffer_count": 7}, "reduce_bucket_size": "auto"}
        file.write_text(json.dumps({"zero_optimization": theirs}))
        places = {"offload_optimizer": "nvme", "offload_parameters": "cpu", "nvme_path": str(tmp_path)}
        spec = stage(deepspeed={"zero": 3, "config": str(file), **places})
        pinned = torch.cuda.is_available()
        assert deepspeed_config(spec, Split.of(spec, 0, 1))["zero_optimization"] == {
            "stage": 3,
            "offload_optimizer": {
                "device": "nvme",
                "buffer_count": 7,
                "pin_memory": pinned,
                "nvme_path": str(tmp_path),
            },
            "offload_param": {"device": "cpu", "pin_memory": pinned},
        }

    @pytest.mark.parametrize(
        "deepspeed",
        [
            {"zero": 2, "offload_optimizer": "cpu"},
            {"zero": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
        ],
    )
    def test_it_trains_the_same(
        self, lab: Any, spec: dict[str, Any], tmp_path: Path, deepspeed: dict[str, Any]
    ) -> None:
        chosen = {**QUICK, "gradient_clipping": 1.0, "optimizer": {"weight_decay": 0.1}}
        plain = lab.train(lab.stages(spec, only=chosen), tmp_path / "plain")
        offloaded = lab.train(lab.stages(spec, only={**chosen, "deepspeed": deepspeed}), tmp_path / "run")
        assert offloaded.losses("only") == pytest.approx(plain.losses("only"), rel=1e-5)


class TestHalfPrecision:
    def test_fp16_scales_its_loss(
        self,
        lab: Any,
        spec: dict[str, Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """On a device that is said to have fp16, as GPUs do: torch computes it here, slowly."""
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
        from deepspeed.accelerator import get_accelerator

        monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
        full = lab.train(lab.stages(spec, only={**QUICK, "max_steps": 5}), tmp_path / "full")
        file = tmp_path / "deepspeed.json"
        losses = {}
        for power in (16, 20):
            file.write_text(json.dumps({"fp16": {"enabled": "auto", "initial_scale_power": power, "hysteresis": 1}}))
            half = {**QUICK, "max_steps": 5, "precision": "fp16", "deepspeed": {"zero": 2, "config": str(file)}}
            run = lab.train(lab.stages(spec, only=half), tmp_path / f"half-{power}")
            losses[power] = run.losses("only")
            overflowed = [entry["gradient_norm"] is None for entry in run.metrics("only")]
            assert capfd.readouterr().err.count("a gradient overflowed fp16: the optimiser took no") == sum(overflowed)
            assert overflowed[0] == (power == 20)
            assert not overflowed[-1]
        assert run.manifest("only")["precision"] == "float16"
        assert losses[16] == pytest.approx(full.losses("only"), rel=5e-3)

    def test_a_device_without(self, stage: Callable[..., StageSpec], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
        from deepspeed.accelerator import get_accelerator

        monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: False)
        spec = stage(precision="fp16", deepspeed={"zero": 1})
        with pytest.raises(TrainingError, match=r"stages\.only\.precision: DeepSpeed has no fp16 .*take bf16 or fp32"):
            require_hardware("only", spec)


REFUSED = [
    ({"deepspeed": {"zero": 2, "offload_parameters": "cpu"}}, "deepspeed.offload_parameters", "only ZeRO-3 shards"),
    ({"deepspeed": {"offload_optimizer": "cpu"}}, "deepspeed.offload_optimizer", "only ZeRO-1, 2 and 3 offload"),
    ({"deepspeed": {"zero": 3, "offload_optimizer": "nvme"}}, "deepspeed.nvme_path", "is needed for offload to nvme"),
    (
        {"deepspeed": {"zero": 2, "offload_optimizer": "nvme", "nvme_path": "."}},
        "deepspeed.offload_optimizer",
        "only ZeRO-3 offloads to a disk",
    ),
    ({"deepspeed": {"zero": 3, "nvme_path": "."}}, "deepspeed.nvme_path", "nothing is offloaded to it"),
    ({"optimizer": {"name": "adafactor"}, "deepspeed": {"zero": 1}}, "optimizer.name", "flat vectors"),
    ({"optimizer": {"name": "sgd", "betas": [0.5, 0.9]}}, "optimizer.betas", "sgd has no betas; remove it"),
    ({"optimizer": {"momentum": 0.9}}, "optimizer.momentum", "adamw has no momentum"),
    (
        {"optimizer": {"name": "adamw_8bit"}, "deepspeed": {"zero": 2, "offload_optimizer": "cpu"}},
        "optimizer.name",
        "adamw_8bit steps on the GPU, offload_optimizer on the CPU",
    ),
    ({"precision": "fp16"}, "precision", "set deepspeed.zero: 1"),
    ({"schedule": {"warmup_steps": 3}}, "schedule.warmup_steps", "3 warm-up steps leave none of max_steps 3"),
]


class TestRefusals:
    @pytest.mark.parametrize(("chosen", "path", "text"), REFUSED)
    def test_combinations(self, lab: Any, spec: dict[str, Any], chosen: dict[str, Any], path: str, text: str) -> None:
        problems = check(load_spec(lab.stages(spec, only={**QUICK, **chosen})))
        assert [problem.path for problem in problems] == [f"stages.only.{path}"]
        assert text in problems[0].message

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ({"optimizer": {"type": "AdamW"}}, "sets optimizer, which belongs to the spec; remove it there"),
            ({"zero_optimization": {"stage": 3}}, "says ZeRO stage 3, the spec 0; set deepspeed.zero: 3"),
            ({"bf16": {"enabled": True}}, "enables bf16, the spec says fp32; set precision: bf16"),
            ([], "is not a DeepSpeed JSON"),
        ],
    )
    def test_a_json_that_says_otherwise(
        self, lab: Any, spec: dict[str, Any], tmp_path: Path, content: Any, text: str
    ) -> None:
        file = tmp_path / "deepspeed.json"
        file.write_text(json.dumps(content))
        (problem,) = check(load_spec(lab.stages(spec, only={**QUICK, "deepspeed": {"config": str(file)}})))
        assert problem.path == "stages.only.deepspeed.config"
        assert text in problem.message

    def test_bitsandbytes_that_is_not_there(
        self, lab: Any, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lensmith.spec.stage_check.find_spec", lambda name: None)
        (problem,) = check(load_spec(lab.stages(spec, only={**QUICK, "optimizer": {"name": "adamw_8bit"}})))
        assert problem.path == "stages.only.optimizer.name"
        assert problem.message.endswith("not installed; install it with: pip install 'lensmith[qlora]'")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that they need")
    def test_paged_moments_need_a_gpu(self, stage: Callable[..., StageSpec]) -> None:
        with pytest.raises(TrainingError, match=r"paged_adamw_8bit pages memory of a CUDA GPU, .*; take adamw_8bit"):
            require_hardware("only", stage(optimizer={"name": "paged_adamw_8bit"}))


class TestSteps:
    def test_max_steps_is_every_stages(self, lab: Any, spec: dict[str, Any], tmp_path: Path) -> None:
        run = lab.train(spec, tmp_path / "run", max_steps=2)
        assert (len(run.losses("align")), len(run.losses("tune"))) == (2, 2)
        assert run.manifest("tune")["stage"]["spec"]["max_steps"] == 2

    def test_with_one_stage_it_is_that_ones(self, lab: Any, spec: dict[str, Any], tmp_path: Path) -> None:
        run = lab.train(spec, tmp_path / "run", stage="align")
        lab.train(spec, tmp_path / "run", stage="tune", max_steps=1)  # the first stage is still the spec's
        assert (len(run.losses("align")), len(run.losses("tune"))) == (4, 1)

    def test_dry_run(self, spec: dict[str, Any], tmp_path: Path, write_spec: Callable[[dict[str, Any]], Path]) -> None:
        """From files without weights."""
        changed = copy.deepcopy(spec)
        for kind in ("vision_encoder", "language_model"):
            source = Path(changed["model"][kind]["checkpoint"])
            folder = tmp_path / kind
            shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
            changed["model"][kind]["checkpoint"] = str(folder)
        changed["stages"]["tune"] |= {"precision": "bf16", "deepspeed": {"zero": 2, "offload_optimizer": "cpu"}}
        file = write_spec(changed)
        output = tmp_path / "run"
        arguments = ["train", str(file), "--dry-run", "--nproc", "2", "--max-steps", "7", "--output", str(output)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert not output.exists()
        connector, adapters = 32 * 32 * 2 + 2 * 32, 4 * (2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64)))
        for expected in (
            "stage align: from the model, 14 rows, 7 steps of 4 rows",
            "  batch      2 process(es) x 2 rows x 1 micro-steps",
            "  optimiser  adamw, lr 0.001, cosine after a warm-up of 1 step",
            f"    connector: {connector:,} in 4 tensors: connector.0.weight, connector.0.bias, connector.2.weight, …",
            "stage tune: from stage align, 14 rows, 7 steps of 4 rows",
            "  engine     bfloat16, ZeRO-2, optimiser on cpu",
            f"    language_model: {adapters:,} in 28 tensors: ",
            f"optimiser {12 * (connector + adapters) / 2 / 1e6:.1f} MB on cpu;",
        ):
            assert expected in result.output, (expected, result.output)

    def test_dry_run_says_what_would_stop_it(
        self, spec: dict[str, Any], tmp_path: Path, write_spec: Callable[[dict[str, Any]], Path]
    ) -> None:
        rows = tmp_path / "rows.jsonl"
        turns = [{"from": "human", "value": "What colour is it?"}, {"from": "gpt", "value": 3}]
        rows.write_text(json.dumps({"id": "lost", "conversations": turns}) + "\n")
        spec["stages"]["align"]["data"] = {"sources": [str(rows)]}
        result = CliRunner().invoke(app, ["train", str(write_spec(spec)), "--dry-run", "--stage", "align"])
        assert "  WOULD STOP: 1 of 1 rows cannot be used (set data.bad_rows: skip" in result.output
        assert "    connector: " in result.output  # the rest is said too
        assert "stage tune" not in result.output
        assert isinstance(result.exception, DataError)

    def test_a_stage_that_is_not_there(self, lab: Any, spec: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(LensmithError, match="there is no stage 'third'; stages: align, tune"):
            lab.train(spec, tmp_path / "run", stage="third", max_steps=1)


def test_data_workers(monkeypatch: pytest.MonkeyPatch, light_spec: dict[str, Any]) -> None:
    """Ahead of a GPU, as many as there are cores for; on a CPU none but those that are asked for."""
    stage = {"tuner": "frozen", "data": {"sources": "rows.jsonl"}}
    plain, asked = (
        load_spec({**light_spec, "stages": {"s": {**stage, "data": {**stage["data"], **more}}}}).stages["s"]
        for more in ({}, {"workers": 3})
    )
    assert (hardware.data_workers(plain), hardware.data_workers(asked)) == (0, 3)
    monkeypatch.setattr(hardware, "accelerator", lambda: torch.device("cuda", 0))
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    for ranks, workers in (("1", 4), ("8", 2), ("32", 0)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert hardware.data_workers(plain) == workers
    assert hardware.data_workers(asked) == 3
