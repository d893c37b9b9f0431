"""What stages cost on given GPUs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lensmith.cli.app import app
from lensmith.errors import SpecError
from lensmith.planning.budget import Budget, budget
from lensmith.planning.hardware import Hardware, parse_hardware
from lensmith.planning.plan import plan
from lensmith.spec.build import load_spec


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("a100-80g", "a100-80g", 1),
        ("a100-80g x 8", "a100-80g", 8),
        ("8xA100-80g", "a100-80g", 8),
        ("h100-80gx2", "h100-80g", 2),
        (["a100-80g", "x", "16"], "a100-80g", 16),
        ("h100", "h100-80g", 1),
        ("H100 x 4", "h100-80g", 4),
        ("nvidia-h100-sxm", "h100-80g", 1),
        ("8 x H100 80GB", "h100-80g", 8),
        ("4090", "rtx4090-24g", 1),
        ("h200 x 2", "h200-141g", 2),
    ],
)
def test_hardware_is_written_as_people_do(text: Any, name: str, count: int) -> None:
    gpu, found = parse_hardware(text)
    assert (gpu.name, found) == (name, count)


@pytest.mark.parametrize("text", ["a100", "", "0 x a100-80g", "2 x a100-80g x 2"])
def test_what_is_no_hardware(text: str) -> None:
    with pytest.raises(SpecError, match="--hardware: "):
        parse_hardware(text)


@pytest.mark.parametrize(("text", "said"), [("a100", "a100-40g or a100-80g; say which"), ("h1000", "is not known")])
def test_N17_a_name_of_several_or_of_none(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse_hardware(text)


@pytest.mark.parametrize("option", ["--gpu-memory", "--tflops", "--price"])
@pytest.mark.parametrize("value", ["inf", "nan", "1e300"])
def test_A11_hardware_is_finite(option: str, value: str) -> None:
    done = CliRunner().invoke(app, ["plan", "llava-1.5-7b", "--hardware", "h100", option, value])
    assert isinstance(done.exception, SpecError) or done.exit_code == 2
    assert "Traceback" not in done.output


def test_every_constant_can_be_given() -> None:
    named, found = parse_hardware("rtx9999", flops=1e14, memory=24e9)  # no number of `rt`s
    assert (named.name, found) == ("rtx9999", 1)
    gpu, _ = parse_hardware("mine x 2", flops=1e12, memory=1e9, price=3.0, utilisation=0.5)
    assert gpu == Hardware("mine", 1e12, 1e9, 3.0, 0.5)
    assert parse_hardware("a100-80g", utilisation=0.3)[0].utilisation == 0.3


def cost(spec: Any, gpu: Hardware, count: int, **kwargs: Any) -> Budget:
    loaded = load_spec(spec)
    return budget(plan(loaded), loaded, gpu, count, **kwargs)


GPU = Hardware("test", flops=1e12, memory=80e9, price=2.0, utilisation=0.5)


def test_hours_are_flops_over_what_the_gpus_reach() -> None:
    planned = plan("llava-1.5-7b")
    found = cost("llava-1.5-7b", GPU, 4, rows={"pretrain": 1000})
    assert found.positions == 576 + 256
    pretrain, finetune = found.stages
    assert pretrain.flops == 1000 * planned.stages[0].flops_per_row
    assert pretrain.gpu_hours == pytest.approx(pretrain.flops / 0.5e12 / 3600)
    assert pretrain.hours == pytest.approx(pretrain.gpu_hours / 4)
    assert pretrain.price == pytest.approx(2 * pretrain.gpu_hours)
    assert finetune.rows is None  # its files are not here
    assert finetune.flops == planned.stages[1].flops_per_row


def test_longer_rows_cost_more_than_in_proportion() -> None:
    short, long = (cost("llava-1.5-7b", GPU, 1, rows=1, text=text).stages[1].flops for text in (100, 776))
    assert 2 < long / short < 2.2


def test_rows_and_steps_of_the_spec(light_spec: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "a"}\n' * 7)
    stage = {"tuner": "frozen", "data": {"sources": str(tmp_path / "rows.jsonl")}, "batch": {"size": 4}}
    spec = {**light_spec, "stages": {"whole": {**stage, "epochs": 3}, "steps": {**stage, "max_steps": 5}}}
    assert [s.rows for s in cost(spec, GPU, 1).stages] == [21, 20]
    spec["stages"]["whole"]["data"] = {"sources": [{"path": str(tmp_path / "rows.jsonl"), "weight": 2}]}
    assert cost(spec, GPU, 1).stages[0].rows == 42


def test_memory_that_is_not_enough() -> None:
    full = cost("llava-1.5-7b", GPU, 8).stages[1].memory
    assert [need.enough for need in full.values()] == [False, True, True, True]  # of 16 rows at once
    assert full[0].fitting == 0
    assert [need.fitting for need in full.values()] == sorted(need.fitting for need in full.values())
    without = cost(load_spec("llava-1.5-7b", ["stages.finetune.activation_checkpointing=false"]), GPU, 8).stages[1]
    assert without.memory[3].row > 4 * full[3].row
    assert not without.memory[1].enough


def test_on_the_command_line() -> None:
    command = ["plan", "llava-1.5-7b", "--hardware", "a100-80g", "x", "8", "--rows", "pretrain=558128", "--price", "2"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "on 8 x a100-80g: 312 TFLOP/s each" in shown.output
    assert "558,128" in shown.output
    assert "`each`: of one row" in shown.output
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)["cost"]
    assert (found["gpus"], found["stages"][0]["rows"], found["stages"][1]["rows"]) == (8, 558_128, None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--hardware", "abacus"], "'abacus' is not known; one of v100-32g"),
        (["--hardware", "a100-80g", "--rows", "tune=5"], "a stage of the spec (pretrain, finetune); it is 'tune=5'"),
    ],
)
def test_wrong_options(options: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["plan", "llava-1.5-7b", *options])
    assert isinstance(result.exception, SpecError)
    assert said in str(result.exception)


@pytest.mark.parametrize(
    ("overrides", "count", "said"),
    [
        ((), 8, "yes: ZeRO-3, batch.size 128 on 8 GPUs, 16 rows at once"),
        (("stages.finetune.deepspeed.zero=0",), 8, "no: ZeRO-0, .* not even one row fits: set deepspeed.zero: 1"),
        (
            ("stages.finetune.activation_checkpointing=false", "stages.finetune.deepspeed.zero=1"),
            8,
            r"no: ZeRO-1, .*; set batch\.micro: 8 \(2 micro-steps a step\)",
        ),
        ((), 7, "no: .* cannot be shared evenly; set batch.size to 126 or 133"),
        (("stages.finetune.batch.micro=1",), 8, "yes: .* batch.micro: 16 .* fits, too"),
    ],
)
def test_N17_does_it_fit_and_which_micro_batch(overrides: tuple[str, ...], count: int, said: str) -> None:
    loaded = load_spec("llava-1.5-7b", overrides)
    gpu = parse_hardware("h100")[0]
    found = budget(plan(loaded, world=count), loaded, gpu, count, rows=1000).stages[1].verdict
    assert re.match(said, found.told(count)), found.told(count)


def test_N17_tables_are_of_the_hardware_that_is_asked_about() -> None:
    done = CliRunner().invoke(app, ["plan", "llava-1.5-7b", "--hardware", "h100 x 4"])
    assert "bytes a GPU, 4 GPUs, bf16" in done.output
    assert "8 GPUs" not in done.output
    assert "ZeRO-3 (this spec)" in done.output
    assert "does stage finetune fit? " in done.output
    done = CliRunner().invoke(app, ["plan", "llava-1.5-7b"])
    assert "bytes a GPU, 8 GPUs, bf16" in done.output
