"""`plan`: tokens, what trains, memory; from config files, without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lensmith.assembly import assemble
from lensmith.errors import SpecError
from lensmith.parts import implementation
from lensmith.planning import plan
from lensmith.spec import load_spec
from lensmith_registry import Kind

TUNERS: list[Any] = [
    "frozen",
    "full",
    {"name": "full", "vision_encoder": True},
    {"name": "full", "connector": False},
    {"name": "full", "connector": True, "language_model": False},
    {"name": "lora", "rank": 4},
    {"name": "lora", "rank": 2, "targets": ["q_proj", "v_proj"]},
    {"name": "lora", "rank": 4, "connector": False},
]


@pytest.mark.parametrize("tuner", TUNERS, ids=str)
@pytest.mark.parametrize("connector", ["linear", {"name": "mlp", "depth": 2}], ids=["linear", "mlp"])
def test_what_trains_is_what_the_real_tuner_sets_free(spec: dict[str, Any], tuner: Any, connector: Any) -> None:
    spec["model"]["connector"] = connector
    spec["stages"] = {"tune": {**spec["stages"]["tune"], "tuner": tuner}}
    planned = plan(spec).stages[0]

    loaded = load_spec(spec)
    tuner_spec = loaded.stages["tune"].tuner
    real = implementation(Kind.TUNER, tuner_spec)(tuner_spec)
    model = assemble(loaded, tuner=real)
    real.prepare(model)
    freed = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    assert {p.name: p.shape for p in planned.trainable} == freed
    assert planned.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("splitter", ["square", "pad"])
def test_a_picture_of_any_size_takes_one_view(spec: dict[str, Any], splitter: str) -> None:
    spec["model"]["image_splitter"] = splitter
    planned = plan(spec)
    assert [(p.views, p.tokens) for p in planned.pictures] == [(1, 4)] * 3  # 28 px in patches of 14
    assert [(p.height, p.width) for p in planned.pictures] == [(336, 336), (480, 640), (1080, 1920)]


def test_the_class_token_is_one_more(spec: dict[str, Any]) -> None:
    planned = plan(spec, overrides=["model.vision_encoder.cls_token=true"])
    assert {p.tokens for p in planned.pictures} == {5}


def test_llava_takes_576_positions_a_picture(llava: Any) -> None:
    assert {p.tokens for p in plan({"model": llava("7b")}).pictures} == {576}


def test_memory_counts_the_model_and_its_adapters(spec: dict[str, Any]) -> None:
    planned = plan(spec, overrides=["stages.align.precision=bf16", "stages.tune.precision=auto"])
    align, tune = planned.stages
    adapters = sum(p.numel for p in tune.trainable if "lora_" in p.name)
    assert adapters > 0
    assert align.memory[0].weights == 2 * planned.total_parameters
    assert tune.memory[0].weights == 2 * (planned.total_parameters + adapters)
    assert tune.memory[2].gradients == 2 * tune.trainable_parameters / 8
    assert tune.memory[3].optimizer == 12 * tune.trainable_parameters / 8


def test_memory_is_counted_in_the_precision_of_the_stage(spec: dict[str, Any]) -> None:
    def stage(precision: str) -> Any:
        return plan(spec, overrides=[f"stages.align.precision={precision}"]).stages[0]

    assert [stage(precision).precision for precision in ("fp32", "fp16", "auto")] == ["fp32", "fp16", "bf16"]
    wide, half = stage("fp32").memory[0], stage("bf16").memory[0]
    assert (wide.weights, wide.gradients) == (2 * half.weights, 2 * half.gradients)
    assert wide.optimizer == half.optimizer * 8 / 12  # two moments, and no copy of the weights
    assert stage("fp16").memory == stage("bf16").memory


@pytest.mark.parametrize(("asked", "planned"), [("64", 64), ("null", 256), ("4096", 256)])
def test_rows_are_no_longer_than_the_context(spec: dict[str, Any], asked: str, planned: int) -> None:
    assert plan(spec, overrides=[f"stages.align.data.max_length={asked}"]).stages[0].max_length == planned


def test_training_the_encoder_costs_its_backward(spec: dict[str, Any]) -> None:
    without = plan(spec, overrides=["stages.tune.tuner=full"])
    with_it = plan(spec, overrides=["stages.tune.tuner={name: full, vision_encoder: true}"])
    more = with_it.stages[1].flops_per_row - without.stages[1].flops_per_row
    assert more == 2 * without.dimensions.encoder.flops_per_view > 0


def test_parts_that_do_not_fit_are_named(spec: dict[str, Any]) -> None:
    spec["model"]["vision_encoder"]["select_layer"] = 9
    with pytest.raises(SpecError, match="select_layer 9 is not in this encoder of 3 layers"):
        plan(spec)


def test_a_target_that_is_not_there_is_named(spec: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"'q_prj' is no linear layer .* Did you mean 'q_proj'"):
        plan(spec, overrides=["stages.tune.tuner.targets=[q_prj]"])


LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
PHI = {"model_type": "phi3", "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
OPT = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("name", "config", "targets", "told"),
    [
        (
            "llama",
            {**LLAMA, "tie_word_embeddings": True},
            ["q_proj", "lm_head"],
            r"'lm_head' is no linear layer .* tied to the embeddings is none\. There are: down_proj, gate_proj, ",
        ),
        ("hf_causal", LLAMA, ["query"], r"There are: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, "),
        (
            "hf_causal",
            PHI,
            ["q_proj"],
            r"Did you mean 'qkv_proj'\? There are: down_proj, gate_up_proj, lm_head, o_proj, qkv_proj",
        ),
        ("hf_causal", OPT, ["o_proj"], r"Did you mean 'out_proj'\? There are: fc1, fc2, k_proj, out_proj, q_proj"),
    ],
)
def test_a_check_names_the_targets_that_there_are_without_torch(
    spec: dict[str, Any], tmp_path: Path, name: str, config: Any, targets: list[str], told: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 70, "num_hidden_layers": 2, **config}))
    spec["model"]["language_model"] = {"name": name, "config": str(tmp_path)}
    spec["stages"]["tune"]["tuner"]["targets"] = targets
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    code = (
        "import sys\n"
        "from lensmith.cli.specs import check\n"
        "from pathlib import Path\n"
        "try:\n"
        f"    check(Path({str(tmp_path / 'spec.json')!r}))\n"
        "finally:\n"
        "    assert not {'torch', 'transformers', 'peft'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "AssertionError" not in done.stderr, done.stderr
    assert re.search(rf"stages\.tune\.tuner: target .*{told}", done.stderr), done.stderr


def test_what_trains_is_counted_by_part(spec: dict[str, Any]) -> None:
    planned = plan(spec)
    align, tune = planned.stages
    connector = planned.parameters["connector"]
    assert {p: align.trainable_in(p) for p in planned.parameters if align.trainable_in(p)} == {"connector": connector}
    adapters = sum(p.numel for p in tune.trainable if "lora_" in p.name)
    assert tune.trainable_in("language_model") == adapters
    for stage, entry in zip(planned.stages, planned.as_dict()["stages"], strict=True):
        assert sum(entry["trainable_parameters_by_part"].values()) == stage.trainable_parameters


def test_the_command_prints_the_plan(spec_file: Path) -> None:
    planned = plan(spec_file)
    command = [sys.executable, "-m", "lensmith.cli", "plan", str(spec_file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"{planned.total_parameters:,}" in text
    table = [line.split() for line in text.splitlines()]
    trained = [f"{stage.trainable_in('language_model'):,}" for stage in planned.stages]
    assert ["language_model", f"{planned.parameters['language_model']:,}", *trained] in table
    assert ["total", f"{planned.total_parameters:,}", *(f"{s.trainable_parameters:,}" for s in planned.stages)] in table
    assert "stage align: trains" in text
    assert "ZeRO-3" in text
    document = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(document) == json.loads(json.dumps(planned.as_dict()))
