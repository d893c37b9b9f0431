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

NAMES = [
    "llava-1.5-13b",
    "llava-1.5-13b-lora",
    "llava-1.5-7b",
    "llava-1.5-7b-lora",
    "llava-1.5-hd-13b",
    "llava-v1-13b",
    "llava-v1-33b",
    "llava-v1-33b-lora",
    "llava-v1-33b-qlora",
    "llava-v1-65b",
    "llava-v1-65b-lora",
    "llava-v1-65b-qlora",
    "llava-v1-70b-lora",
    "llava-v1-7b",
]
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


# Learning rate, decay, rows a step, epochs, ZeRO stage.
NEW_ALIGN, NEW_FULL, NEW_LORA = (1e-3, "cosine", 256, 1, 2), (2e-5, "cosine", 128, 1, 3), (2e-4, "cosine", 128, 1, 3)
OLD_ALIGN, OLD_FULL = (2e-3, "cosine", 128, 1, 2), (2e-5, "cosine", 32, 3, 2)
LARGE_ALIGN, LARGE_FULL, LARGE_LORA = (
    (1e-4, "linear", 128, 1, 3),
    (2e-5, "cosine", 512, 1, 3),
    (1e-4, "cosine", 64, 1, 3),
)
LARGE_QLORA = (1e-4, "cosine", 64, 1, 2)
PUBLISHED = {
    "llava-1.5-7b": (NEW_ALIGN, NEW_FULL),
    "llava-1.5-13b": (NEW_ALIGN, NEW_FULL),
    "llava-1.5-hd-13b": (NEW_ALIGN, NEW_FULL),
    "llava-1.5-7b-lora": (NEW_ALIGN, NEW_LORA),
    "llava-1.5-13b-lora": (NEW_ALIGN, NEW_LORA),
    "llava-v1-7b": (OLD_ALIGN, OLD_FULL),
    "llava-v1-13b": (OLD_ALIGN, OLD_FULL),
    "llava-v1-33b": (LARGE_ALIGN, LARGE_FULL),
    "llava-v1-65b": (LARGE_ALIGN, LARGE_FULL),
    "llava-v1-33b-lora": (LARGE_ALIGN, LARGE_LORA),
    "llava-v1-65b-lora": (LARGE_ALIGN, LARGE_LORA),
    "llava-v1-33b-qlora": (LARGE_ALIGN, LARGE_QLORA),
    "llava-v1-65b-qlora": (LARGE_ALIGN, LARGE_QLORA),
    "llava-v1-70b-lora": (LARGE_ALIGN, LARGE_LORA),
}


@pytest.mark.parametrize("name", NAMES)
def test_stages_have_the_published_numbers(name: str, recipe: Any) -> None:
    for stage, published in zip(STAGES, PUBLISHED[name], strict=True):
        found = recipe(name).stages[stage]
        numbers = (found.lr, found.schedule.decay, found.batch.size, found.epochs, found.deepspeed.zero)
        assert numbers == published, stage
        assert found.schedule.warmup_ratio == 0.03
        assert found.data.max_length == (4096 if "-hd-" in name else 2048)
        assert (found.optimizer.weight_decay, found.optimizer.betas, found.optimizer.eps) == (0, (0.9, 0.999), 1e-8)
        assert found.gradient_clipping == 0
        assert found.precision == "bf16"


@pytest.mark.parametrize("name", NAMES)
def test_captions_are_plain_and_instructions_are_vicunas(name: str, recipe: Any) -> None:
    spec = recipe(name)
    templates = [getattr(spec.conversation_for(spec.stages[stage]), "name", None) for stage in STAGES]
    assert templates == ["plain", "llava_llama_2" if "-70b-" in name else "vicuna_v1"]


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-lora")])
def test_adapters_scale_by_two(name: str, recipe: Any) -> None:
    tuner = recipe(name).stages["finetune"].tuner
    rank, connector_lr = (128, 2e-5) if "-1.5-" in name else (64, None)
    assert (tuner.name, tuner.rank, tuner.scale, tuner.dropout) == ("lora", rank, 2 * rank, 0.05)
    assert (tuner.connector, tuner.connector_lr) == (True, connector_lr)


def test_parts_are_the_published_ones(recipe: Any) -> None:
    for name in NAMES:
        model = recipe(name).model
        old = name.startswith("llava-v1-")
        splitter = "hd" if "-hd-" in name else "square" if old else "pad"
        assert (model.image_splitter.name, model.connector.name) == (splitter, "linear" if old else "mlp"), name
        small = "-hd-" in name or name in ("llava-v1-7b", "llava-v1-13b")
        encoder = "openai/clip-vit-large-patch14" + ("" if small else "-336")
        assert (model.vision_encoder.checkpoint, model.vision_encoder.select_layer) == (encoder, -2), name


# Width, layers, heads, heads of keys and values, intermediate, context length.
SIZES = {
    "7b": (4096, 32, 32, 32, 11008),
    "13b": (5120, 40, 40, 40, 13824),
    "33b": (6656, 60, 52, 52, 17920),
    "65b": (8192, 80, 64, 64, 22016),
    "70b": (8192, 80, 64, 8, 28672),
}


@pytest.mark.parametrize(
    ("name", "size", "context", "tokens", "total", "connector", "finetuned"),
    [
        ("llava-1.5-7b", "7b", 4096, 576, 7_050_304_512, 20_979_712, 6_738_415_616),
        ("llava-1.5-13b", "13b", 4096, 576, 13_338_241_024, 31_467_520, 13_015_864_320),
        ("llava-1.5-7b-lora", "7b", 4096, 576, 7_050_304_512, 20_979_712, 319_815_680),
        ("llava-1.5-13b-lora", "13b", 4096, 576, 13_338_241_024, 31_467_520, 500_695_040),
        ("llava-v1-7b", "7b", 2048, 256, 7_033_195_520, 4_198_400, 6_738_415_616),
        ("llava-v1-13b", "13b", 2048, 256, 13_311_693_824, 5_248_000, 13_015_864_320),
        ("llava-v1-33b", "33b", 2048, 576, 32_826_675_200, 6_822_400, 32_528_943_616),
        ("llava-v1-65b", "65b", 2048, 576, 65_584_966_656, 8_396_800, 65_285_660_672),
        ("llava-v1-33b-lora", "33b", 2048, 576, 32_826_675_200, 6_822_400, 487_587_840),
        ("llava-v1-65b-lora", "65b", 2048, 576, 65_584_966_656, 8_396_800, 799_539_200),
        ("llava-v1-70b-lora", "70b", 4096, 576, 69_275_954_176, 8_396_800, 828_375_040),
        ("llava-1.5-hd-13b", "13b", 4096, None, 13_337_918_464, 31_467_520, 13_015_864_320),
    ],
)
def test_it_plans_the_published_model(
    name: str,
    size: str,
    context: int,
    tokens: int | None,
    total: int,
    connector: int,
    finetuned: int,
    extending: Any,
) -> None:
    planned = plan(extending(name))
    dimensions = planned.dimensions
    language = dimensions.language_model
    heads = (language.heads, language.kv_heads)
    assert (language.width, language.layers, *heads, language.intermediate) == SIZES[size]
    assert (language.context_length, language.vocabulary) == (context, 32000)
    assert (dimensions.encoder.width, dimensions.connector.width) == (1024, language.width)
    if tokens is not None:
        assert {p.tokens for p in planned.pictures} == {tokens}
    assert planned.total_parameters == total
    assert planned.parameters["connector"] == connector
    newline = planned.parameters["image_splitter"]
    assert newline == (5120 if tokens is None else 0)
    pretrain, finetune = planned.stages
    for stage, trained in ((pretrain, 0), (finetune, finetuned)):
        by_part = {"vision_encoder": 0, "image_splitter": newline, "connector": connector, "language_model": trained}
        assert {part: stage.trainable_in(part) for part in planned.parameters} == by_part
        assert stage.trainable_parameters == sum(by_part.values())


def test_hd_counts_what_a_picture_takes(extending: Any) -> None:
    """The whole picture, 256, and the rows of the stitched map that show it, each with its end."""
    planned = plan(extending("llava-1.5-hd-13b"))
    square, landscape, wide = (picture.tokens for picture in planned.pictures)
    assert square == 256 + 32 * (32 + 1)  # 336 x 336 on 2 x 2 tiles
    assert landscape == 256 + 32 * (44 + 1)  # 640 x 480 on 3 x 2: 597 of 672 pixels are the picture
    assert wide == 256 + 28 * (48 + 1)  # 1920 x 1080 on 3 x 2: 378 of 448
    assert planned.dimensions.largest().tokens == 256 + 96 * (16 + 1)  # six tiles one below the other
    assert {p.views for p in planned.pictures} == {5, 7}


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
