"""What people mix up: each is told by what is wrong and what to write. Stage names that would collide with a run's own
folders are one of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lensmith import SpecError, load_spec
from lensmith.cli.commands import build
from lensmith.errors import TrainingError
from lensmith.spec import installed
from lensmith.spec.elsewhere import known, table
from lensmith.spec.messages import own_places
from lensmith.spec.run import StageSpec
from lensmith.training.feed import Split
from lensmith.training.launch import require_shares
from lensmith_plugins.tuners.specs import FullSpec
from lensmith_registry import Kind

Told = Callable[..., str]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "metrics",
            "checkpoints",
            "a" * 65,
            "x" * 250,
            "",
            ".",
            "..",
            "a/b",
            "Tune",
            "tune ",
            "tüne",
            "-a",
            "_a",
            "a.b",
        ),
        *("a\n", "a\x00", "con:"),
    ],
)
def test_A2_stage_names(name: str, base: Path, told: Told) -> None:
    data = load_spec(base).model_dump(mode="json")
    data["stages"][name] = data["stages"].pop("tune")
    assert "folder" in told(data)


@pytest.mark.parametrize("name", ["a", "tune-2", "0", "stage_1", "a" * 64, "checkpoint", "metric"])
def test_A2_other_names_are_taken(name: str, base: Path) -> None:
    data = load_spec(base).model_dump(mode="json")
    data["stages"] = {name: data["stages"]["tune"]}
    assert list(load_spec(data).stages) == [name]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.tunes.lr=1", "there is no stage 'tunes'. Did you mean 'tune'? The spec has align, tune"),
        ("stages.tunes={tuner: frozen}", "there is no stage 'tunes'. Did you mean 'tune'?"),
        ("stages.tunes.tuner=lora", "there is no stage 'tunes'"),
        ("stages.0.lr=1", "there is no stage '0'. The spec has align, tune"),
        ("stages.Tune.tuner.rank=1", "Did you mean 'tune'?"),
    ],
)
def test_N16_a_misspelt_stage_is_no_new_one(override: str, message: str, base: Path, told: Told) -> None:
    assert message in told(base, override)


def test_N16_a_recipe_misspelt(told: Told) -> None:
    for name in ("llava-1.5-7", "llava-1.5-7B", "llava-1.5"):
        assert "is neither a spec file nor a recipe. Did you mean llava-1.5-7b" in told(name)
    assert "does not exist" in told("llava-1.5-7b.yaml")


@pytest.mark.parametrize(
    ("micro", "size", "cures"),
    [(5, 16, "4 or 8, or batch.size to 20"), (32, 16, "16, or batch.size to 32"), (7, 13, "1 or 13")],
)
def test_N16_a_micro_batch_that_does_not_go_into_a_step(
    micro: int, size: int, cures: str, spec: dict[str, Any]
) -> None:
    from lensmith.spec.check import checked

    with pytest.raises(SpecError) as caught:
        checked(spec, [f"stages.tune.batch.micro={micro}", f"stages.tune.batch.size={size}"])
    assert f"set batch.micro to {cures}" in str(caught.value)


@pytest.mark.parametrize(
    ("size", "world", "cures"), [(16, 3, "15 or 18, or take 2 processes"), (2, 4, "4, or take 2 processes")]
)
def test_N16_a_batch_is_shared_before_processes_start(size: int, world: int, cures: str, spec: dict[str, Any]) -> None:
    spec["stages"]["tune"]["batch"] = {"size": size}
    spec["stages"]["align"]["batch"] = {"size": 12 * world}
    with pytest.raises(TrainingError, match=f"^stages.tune: a step of {size} rows .* set batch.size to {cures}"):
        require_shares(load_spec(spec), nproc=world, hostfile=None, only=None)
    require_shares(load_spec(spec), nproc=world, hostfile=None, only="align")


def test_N16_a_share_that_micro_does_not_divide() -> None:
    stage = StageSpec.model_construct(
        batch=StageSpec.model_fields["batch"].default.model_copy(update={"size": 24, "micro": 8})
    )
    with pytest.raises(TrainingError, match=r"set batch\.micro to 6"):
        Split.of(stage, 0, 2)


@pytest.mark.parametrize("word", ["connector", "connectors", "vision-encoder", "Connector"])
def test_N16_list_takes_a_kind_by_itself(word: str) -> None:
    done = CliRunner().invoke(build("list"), ["list", word])
    assert done.exit_code == 0
    kinds = {line.split()[0] for line in done.stdout.splitlines()[1:] if line and not line.startswith("warning")}
    assert kinds == {word.lower().rstrip("s").replace("-", "_")}


def test_N16_list_of_no_kind(told: Told) -> None:
    done = subprocess.run([sys.executable, "-m", "lensmith.cli", "list", "conector"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Did you mean connector?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["one", "--output", "two"], []])
def test_N16_merge_says_where_to(words: list[str]) -> None:
    done = CliRunner().invoke(build("merge"), ["merge", "artifact", *words])
    assert isinstance(done.exception, SpecError)
    assert "--output" in str(done.exception)


@pytest.mark.parametrize("words", [["out"], ["--output", "out"], ["out", "language_model.checkpoint=x"]])
def test_N16_merge_takes_its_folder_either_way(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from lensmith import merging

    seen: list[Any] = []

    def merge(artifact: Path, output: Path, **rest: Any) -> Any:
        seen.append((output, rest["overrides"]))
        raise SpecError([])

    monkeypatch.setattr(merging, "merge", merge)
    CliRunner().invoke(build("merge"), ["merge", "artifact", *words])
    assert seen == [(Path("out"), [word for word in words if "=" in word])]


@pytest.mark.parametrize(
    ("written", "layers"), [("all", ["all"]), ("0-3, 8", ["0-3, 8"]), (True, ["all"]), (False, [])]
)
def test_N16_a_part_of_the_full_tuner_in_one_word(written: object, layers: list[str]) -> None:
    assert [entry.layers for entry in FullSpec(vision_encoder=written).vision_encoder] == layers  # type: ignore[arg-type]


def test_N16_empty_options_are_empty_text() -> None:
    from lensmith.conversion.options import settings

    assert settings(Kind.BENCHMARK, "vqa", ["suffix="]).suffix == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("where", "name", "meant"),
    [
        ("stages.tune", "warmup_ratio", "stages.tune.schedule.warmup_ratio"),
        ("stages.tune", "weight_decay", "stages.tune.optimizer.weight_decay"),
        ("stages.tune", "gradient_accumulation", "stages.tune.batch"),
        ("stages.tune", "gradient_accumulation_steps", "stages.tune.batch"),
        ("stages.tune", "learning_rate", "stages.tune.lr"),
        ("stages.tune", "lora_r", "stages.tune.tuner.rank"),
        ("stages.tune.tuner", "r", "stages.tune.tuner.rank"),
        ("stages.tune.tuner", "lora_alpha", "stages.tune.tuner.alpha"),
        ("stages.tune.tuner", "target_modules", "stages.tune.tuner.targets"),
        ("stages.tune.batch", "per_device_train_batch_size", "stages.tune.batch.micro"),
        ("stages.tune", "per_device_train_batch_size", "stages.tune.batch.micro"),
        ("stages.tune", "num_train_epochs", "stages.tune.epochs"),
        ("stages.tune", "max_seq_length", "stages.tune.data.max_length"),
        ("stages.tune.data", "cutoff_len", "stages.tune.data.max_length"),
        ("stages.tune", "gradient_checkpointing", "stages.tune.activation_checkpointing"),
        ("stages.tune", "bf16", "stages.tune.precision"),
        ("stages.tune", "zero", "stages.tune.deepspeed.zero"),
        ("stages.tune", "micro", "stages.tune.batch.micro"),
        ("", "learning_rate", "stages.NAME.lr"),
        ("", "model_name_or_path", "model.language_model.checkpoint"),
        ("model", "vision_tower", "model.vision_encoder.checkpoint"),
        ("model", "mm_projector_type", "model.connector"),
        ("model.vision_encoder", "mm_vision_select_layer", "model.vision_encoder.select_layer"),
        ("model.connector", "mm_projector_type", "model.connector"),
        ("model.language_model", "attn_implementation", "model.language_model.attention"),
        ("", "output_dir", "output"),
        ("", "report_to", "logging.loggers"),
    ],
)
def test_T15_N15_fields_of_other_tools(where: str, name: str, meant: str, base: Path, told: Told) -> None:
    text = told(base, f"{where}.{name}=1".lstrip("."))
    assert meant in text
    assert "there is no such field" in text


def test_T15_N15_every_field_that_the_table_names_is_there() -> None:
    """However a part is called: the last key of a path is a field that stands at that path."""
    from lensmith.spec.build import run_spec_class

    root = run_spec_class(installed())
    for name, entry in table().items():
        if not entry.where:
            assert entry.note, name
            continue
        where = entry.where.removesuffix(".name")
        last = where.rpartition(".")[2]
        places = [place.partition(" (")[0] for place in own_places(last, root)]
        assert where in places, (name, where, places)


@pytest.mark.parametrize(
    ("override", "written"),
    [
        ("model.connector=mlp2x_gelu", "{name: mlp, depth: 2}"),
        ("model.connector=MLP3x_GELU", "{name: mlp, depth: 3}"),
        ("model.connector.name=resampler", "perceiver"),
        ("model.language_model.name=qwen", "{name: hf_causal, checkpoint: …}"),
        ("model.language_model=Qwen2.5-VL", "{name: hf_causal, checkpoint: …}"),
        ("model.vision_encoder=openai/clip-vit-large-patch14-336", "{name: clip, checkpoint: …}"),
        ("model.vision_encoder.name=siglip-so400m", "{name: siglip, checkpoint: …}"),
        ("stages.tune.tuner=dora", "{name: lora, dora: true}"),
        ("stages.tune.tuner=sft", "full"),
        ("stages.tune.tuner.name=ia3", "{name: peft, method: ia3}"),
        ("model.conversation=v1", "vicuna_v1"),
        ("model.image_splitter=anyres_max_9", "anyres"),
    ],
)
def test_N15_names_of_parts_of_other_tools(override: str, written: str, base: Path, told: Told) -> None:
    name = override.partition("=")[2]
    assert f"Other tools' {name!r} is {written} here." in told(base, override)


@pytest.mark.parametrize(
    "spelt", ["learning_rate", "--learning_rate", "learning-rate", "learningRate", "LEARNING_RATE"]
)
def test_T15_N15_spellings(spelt: str) -> None:
    found = known(spelt)
    assert found is not None
    assert found.where == "stages.NAME.lr"


@pytest.mark.parametrize(
    ("attention", "package"), [("flash_attention_2", "flash-attn"), ("flash_attention_3", "flash")]
)
def test_N16_kernels_that_are_not_installed(
    attention: str, package: str, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensmith.spec.check import check

    monkeypatch.setattr("lensmith_plugins.language_models.specs.find_spec", lambda name: None)
    spec["model"]["language_model"]["attention"] = attention
    (problem,) = check(load_spec(spec))
    assert problem.path == "model.language_model.attention"
    assert package in problem.message
    spec["model"]["language_model"]["attention"] = "eager"
    assert check(load_spec(spec)) == []
