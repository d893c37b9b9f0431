"""Training scripts of LLaVA as specs that `check` accepts; what is not carried is told. Nothing of a script is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lensmith.cli.commands import build
from lensmith.errors import SpecError
from lensmith.migration import migrate, read_arguments
from lensmith.spec import installed, load_spec
from lensmith.spec.check import check

SCRIPT = """#!/bin/bash
# Visual instruction tuning
export OUT=./out   # where
PROMPT_VERSION="v1"
{launch} llava/train/train_mem.py \\
    --deepspeed ./scripts/{engine}.json \\
    --model_name_or_path {language} \\
    --version ${{PROMPT_VERSION}} \\
    --data_path {rows} \\
    --image_folder {images} \\
    --vision_tower {encoder} \\
    --mm_projector_type mlp2x_gelu \\
    --mm_vision_select_layer -2 \\
    --mm_use_im_start_end False \\
    --mm_use_im_patch_token False \\
    --image_aspect_ratio pad \\
    --group_by_modality_length True \\
    --bf16 True \\
    --output_dir $OUT \\
    --num_train_epochs 2 \\
    --per_device_train_batch_size 4 \\
    --gradient_accumulation_steps 2 \\
    --evaluation_strategy "no" \\
    --save_strategy "steps" --save_steps 50000 --save_total_limit 1 \\
    --learning_rate 2e-5 --weight_decay 0. \\
    --warmup_ratio 0.03 \\
    --lr_scheduler_type "cosine" \\
    --tf32 True --model_max_length 200 \\
    --gradient_checkpointing True \\
    --dataloader_num_workers 4 \\
    --lazy_preprocess True \\
    --report_to wandb {more}
"""


@pytest.fixture
def script(tiny_encoder: Path, tiny_language_model: Path, rows: Path, tmp_path: Path) -> Any:
    def write(launch: str = "deepspeed --num_gpus 4", engine: str = "zero3", more: str = "", **other: str) -> Path:
        named = {
            "language": str(tiny_language_model),
            "encoder": str(tiny_encoder),
            "rows": str(rows),
            "images": str(rows.parent),
        }
        file = tmp_path / "finetune.sh"
        file.write_text(SCRIPT.format(launch=launch, engine=engine, more=more, **{**named, **other}))
        return file

    return write


def carried(file: Path, **options: Any) -> Any:
    return migrate(read_arguments(file), installed(), **options)


def test_N15_a_script_becomes_a_spec_that_check_accepts(script: Any) -> None:
    found = carried(script())
    spec = load_spec(found.spec)
    assert check(spec) == []
    stage = spec.stages["finetune"]
    assert (stage.batch.size, stage.batch.micro) == (32, 4)
    assert (stage.lr, stage.epochs, stage.precision, stage.tf32) == (2e-5, 2, "bf16", True)
    assert (stage.deepspeed.zero, stage.activation_checkpointing) == (3, True)
    assert (stage.data.order, stage.data.max_length, stage.data.workers) == ("llava_grouped", 200, 4)
    assert (stage.schedule.decay, stage.schedule.warmup_ratio) == ("cosine", 0.03)
    assert (stage.checkpoints.every, stage.checkpoints.keep) == (50000, 1)
    assert stage.loss == "micro_batches"
    assert found.spec["model"]["connector"] == {"name": "mlp", "depth": 2}
    assert found.spec["model"]["conversation"] == "vicuna_v1"
    assert found.spec["output"] == "./out"
    assert set(found.left) == {"evaluation_strategy", "report_to"}
    assert found.left["report_to"].startswith("set logging.loggers")


@pytest.mark.parametrize(
    ("launch", "gpus", "size"),
    [
        ("deepspeed", None, 64),
        ("deepspeed", 2, 16),
        ("deepspeed --include localhost:0,1,2", None, 24),
        ("torchrun --nnodes=2 --nproc_per_node=8", None, 128),
        ("python -m torch.distributed.run --nproc-per-node 4", None, 32),
        ("accelerate launch --num_processes 6", None, 48),
        ("CUDA_VISIBLE_DEVICES=0 deepspeed --num_gpus 1", None, 8),
    ],
)
def test_N15_launchers_say_how_many_gpus(script: Any, launch: str, gpus: int | None, size: int) -> None:
    found = carried(script(launch=launch), gpus=gpus)
    assert found.spec["stages"]["finetune"]["batch"] == {"size": size, "micro": 4}
    assert any("--gpus" in note for note in found.notes) == (launch == "deepspeed" and gpus is None)


@pytest.mark.parametrize(
    ("more", "tuner"),
    [
        ("", {"name": "full"}),
        ("--mm_projector_lr 1e-5", {"name": "full", "connector_lr": 1e-5}),
        ("--lora_enable True", {"name": "lora", "rank": 64, "alpha": 16, "dropout": 0.05}),
        (
            "--lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5",
            {"name": "lora", "rank": 128, "alpha": 256, "dropout": 0.05, "connector_lr": 2e-5},
        ),
        ("--lora_enable True --bits 4", {"name": "qlora", "rank": 64, "alpha": 16, "dropout": 0.05}),
        ("--tune_mm_mlp_adapter True", {"name": "frozen"}),
    ],
)
def test_N15_tuners(script: Any, more: str, tuner: dict[str, Any]) -> None:
    (stage,) = carried(script(more=more)).spec["stages"].values()
    assert stage["tuner"] == tuner


def test_N15_the_deepspeed_json_is_read_where_it_is(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = script(engine="mine")
    (tmp_path / "scripts").mkdir()
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}}
    (tmp_path / "scripts" / "mine.json").write_text(json.dumps({"zero_optimization": zero}))
    found = carried(file)
    assert found.spec["stages"]["finetune"]["deepspeed"] == {"zero": 3, "offload_optimizer": "cpu"}


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_N15_files_of_arguments(script: Any, tmp_path: Path, suffix: str) -> None:
    values = dict(read_arguments(script()).values)
    file = tmp_path / f"arguments.{suffix}"
    file.write_text(json.dumps(values) if suffix == "json" else yaml.safe_dump(values))
    assert carried(file, gpus=4).spec == carried(script()).spec


def test_N15_what_is_not_known_is_told(script: Any) -> None:
    found = carried(script(more="--neftune_noise_alpha 5 --my_own_flag yes --mm_use_im_start_end True"))
    assert found.left["neftune_noise_alpha"] == "it is not there yet"
    assert found.left["my_own_flag"] == "there is nothing like it here"
    assert "mm_use_im_start_end" in found.left


def test_N15_the_command(script: Any, tmp_path: Path) -> None:
    output = tmp_path / "new" / "spec.yaml"
    output.parent.mkdir()
    done = CliRunner().invoke(build("migrate"), ["migrate", str(script()), "--output", str(output)])
    assert done.exit_code == 0
    assert "not carried: report_to" in done.stderr
    assert check(load_spec(output)) == []
    again = CliRunner().invoke(build("migrate"), ["migrate", str(script()), "--output", str(output)])
    assert isinstance(again.exception, SpecError)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.sh", ""),
        ("echo.sh", "echo train.py --learning_rate 1\n"),
        ("quotes.sh", "deepspeed train.py --a 'b\n"),
        ("other.sh", "torchrun train.py --learning_rate 1\n"),
        ("binary.sh", "\x00\x01"),
        ("list.json", "[1]"),
        ("empty.yaml", ""),
        ("bad.json", "{"),
        ("factory.yaml", "model_name_or_path: x\nstage: sft\nfinetuning_type: lora\n"),
    ],
)
def test_N15_what_is_no_script_of_a_known_trainer(name: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(SpecError):
        carried(file)


def test_N15_nothing_is_run(tmp_path: Path, script: Any) -> None:
    canary = tmp_path / "canary"
    file = script(more=f"--run_name $(touch {canary}) `touch {canary}`")
    carried(file)
    assert not canary.exists()


def test_N15_the_originals_recorded_arguments(shared: Path, tmp_path: Path, rows: Path) -> None:
    for job, stage in (("stage1", "pretrain"), ("stage2_lora", "finetune")):
        argv = json.loads((shared / "golden" / "train" / f"{job}.json").read_text())["argv"]
        file = tmp_path / f"{job}.sh"
        file.write_text(f"python llava/train/train.py {' '.join(argv)}\n")
        found = carried(file, gpus=1)
        assert list(found.spec["stages"]) == [stage]
        assert load_spec(found.spec).stages[stage].batch.size == 4
