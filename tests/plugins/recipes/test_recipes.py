"""The shipped recipes: what the papers say, complete but for the rows, planned from the configs beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lensmith.planning import plan
from lensmith.spec import RunSpec, load_spec, recipes
from lensmith.spec.build import installed
from lensmith.spec.check import check

NAMES = ["llava-1.5-13b", "llava-1.5-7b", "llava-v1-33b-lora", "llava-v1-65b-lora"]
STAGES = ("pretrain", "finetune")


@pytest.fixture
def extending(tmp_path: Path) -> Any:
    """`extending(name)`: a user's spec file that names the rows and nothing else."""

    def write(name: str) -> Path:
        (tmp_path / "rows.json").write_text("[]")
        stages = {stage: {"data": {"sources": "rows.json"}} for stage in STAGES}
        file = tmp_path / f"my-{name}.json"
        file.write_text(json.dumps({"extends": name, "stages": stages}))
        return file

    return write


@pytest.fixture
def recipe(extending: Any) -> Any:
    """`recipe(name)`: the recipe as a user has it."""

    def load(name: str) -> RunSpec:
        return load_spec(extending(name))

    return load


def test_every_file_of_the_folder_is_a_recipe_and_tested() -> None:
    folder = recipes(installed())["llava-1.5-7b"].parent
    assert sorted(path.stem for path in folder.glob("*.yaml")) == NAMES
    assert set(NAMES) <= recipes(installed()).keys()


@pytest.mark.parametrize("name", NAMES)
def test_with_rows_it_is_valid_without_weights_or_network(name: str, extending: Any) -> None:
    assert check(load_spec(extending(name))) == []


@pytest.mark.parametrize("name", NAMES)
def test_alone_it_says_that_rows_are_missing_and_nothing_else(name: str) -> None:
    assert [p.path for p in check(load_spec(name))] == [f"stages.{stage}.data.sources" for stage in STAGES]


@pytest.mark.parametrize("name", NAMES)
def test_paths_of_rows_start_from_the_users_file(name: str, extending: Any) -> None:
    file = extending(name)
    loaded = load_spec(file)
    assert {s.path for stage in loaded.stages.values() for s in stage.data.sources} == {file.parent / "rows.json"}


@pytest.mark.parametrize(
    ("name", "stage", "lr", "decay", "rows", "zero"),
    [
        ("llava-1.5-7b", "pretrain", 1e-3, "cosine", 256, 2),
        ("llava-1.5-7b", "finetune", 2e-5, "cosine", 128, 3),
        ("llava-1.5-13b", "pretrain", 1e-3, "cosine", 256, 2),
        ("llava-1.5-13b", "finetune", 2e-5, "cosine", 128, 3),
        ("llava-v1-33b-lora", "pretrain", 1e-4, "linear", 128, 3),
        ("llava-v1-33b-lora", "finetune", 1e-4, "cosine", 64, 3),
        ("llava-v1-65b-lora", "pretrain", 1e-4, "linear", 128, 3),
        ("llava-v1-65b-lora", "finetune", 1e-4, "cosine", 64, 3),
    ],
)
def test_stages_have_the_published_numbers(
    name: str, stage: str, lr: float, decay: str, rows: int, zero: int, recipe: Any
) -> None:
    found = recipe(name).stages[stage]
    assert (found.lr, found.schedule.decay, found.batch.size, found.deepspeed.zero) == (lr, decay, rows, zero)
    assert (found.epochs, found.schedule.warmup_ratio, found.data.max_length) == (1, 0.03, 2048)
    assert (found.optimizer.weight_decay, found.optimizer.betas, found.optimizer.eps) == (0, (0.9, 0.999), 1e-8)
    assert found.gradient_clipping == 0
    assert found.precision == "bf16"


@pytest.mark.parametrize("name", NAMES)
def test_captions_are_plain_and_instructions_are_vicunas(name: str, recipe: Any) -> None:
    spec = recipe(name)
    templates = [getattr(spec.conversation_for(spec.stages[stage]), "name", None) for stage in STAGES]
    assert templates == ["plain", "vicuna_v1"]


@pytest.mark.parametrize("name", ["llava-v1-33b-lora", "llava-v1-65b-lora"])
def test_adapters_scale_by_two(name: str, recipe: Any) -> None:
    tuner = recipe(name).stages["finetune"].tuner
    assert (tuner.name, tuner.rank, tuner.scale, tuner.connector) == ("lora", 64, 128, True)


@pytest.mark.parametrize(
    ("name", "width", "layers", "heads", "intermediate", "context", "total", "finetuned"),
    [
        ("llava-1.5-7b", 4096, 32, 32, 11008, 4096, 7_050_304_512, 6_759_395_328),
        ("llava-1.5-13b", 5120, 40, 40, 13824, 4096, 13_338_241_024, 13_047_331_840),
        ("llava-v1-33b-lora", 6656, 60, 52, 17920, 2048, 32_826_675_200, 494_410_240),
        ("llava-v1-65b-lora", 8192, 80, 64, 22016, 2048, 65_584_966_656, 807_936_000),
    ],
)
def test_it_plans_the_published_model(
    name: str,
    width: int,
    layers: int,
    heads: int,
    intermediate: int,
    context: int,
    total: int,
    finetuned: int,
    extending: Any,
) -> None:
    planned = plan(extending(name))
    language = planned.dimensions.language_model
    assert (language.width, language.layers, language.heads, language.kv_heads) == (width, layers, heads, heads)
    assert (language.intermediate, language.context_length, language.vocabulary) == (intermediate, context, 32000)
    assert {p.tokens for p in planned.pictures} == {576}
    assert planned.total_parameters == total
    pretrain, finetune = planned.stages
    assert pretrain.trainable_parameters == planned.parameters["connector"]
    assert finetune.trainable_parameters == finetuned


@pytest.mark.parametrize("name", NAMES)
def test_the_tokenizer_is_looked_for_where_the_weights_are(name: str, recipe: Any) -> None:
    language_model = recipe(name).model.language_model
    assert language_model.tokenizer_source() == language_model.checkpoint


def test_planning_the_recipes_imports_no_torch(extending: Any) -> None:
    files = [str(extending(name)) for name in NAMES]
    code = (
        "import sys\n"
        "from lensmith.planning import plan\n"
        "from lensmith.spec import load_spec\n"
        "from lensmith.spec.check import check\n"
        f"for file in {files!r}:\n"
        "    plan(file), check(load_spec(file))\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'peft', 'deepspeed', 'timm'}\n"
        "sys.exit(' '.join(sorted(heavy & sys.modules.keys())) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"imported: {done.stderr}"
