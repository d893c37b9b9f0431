"""What stages cost on given GPUs."""

from __future__ import annotations

import json
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
    ],
)
def test_hardware_is_written_as_people_do(text: Any, name: str, count: int) -> None:
    gpu, found = parse_hardware(text)
    assert (gpu.name, found) == (name, count)


@pytest.mark.parametrize("text", ["a100", "", "0 x a100-80g", "2 x a100-80g x 2"])
def test_what_is_no_hardware(text: str) -> None:
    with pytest.raises(SpecError, match="--hardware: "):
        parse_hardware(text)


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
