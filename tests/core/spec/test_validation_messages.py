"""Every mistake of a spec at once: its path, its file and line, what is allowed and what was probably meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lensmith import load_spec
from lensmith.errors import Problem

Told = Callable[..., str]
Write = Callable[[str, str], Path]

MANY = """
model:
  vision_encoder: {name: clipp, checkpoint: x}
  image_splitter: {name: pad, color: [1, 2, 256]}
  connector:
    name: mlp
    depht: 3
    activation: rulu
  language_model: {checkpoint: y}
stages:
  align:
    tuner: frosen
    data: {sources: []}
    lr: fast
  Tune:
    tuner: {name: lora, rank: 0}
    data:
      sources:
        - {path: a, weigth: 2}
        - {weight: 0}
      long_rows: cut
    batch: 8
modle: 3
"""


SOURCE = "path, images, weight, fraction, seed, missing_images, ignore"


def test_all_mistakes_at_once(problems: Callable[..., list[Problem]], write: Write) -> None:
    file = write("run.yaml", MANY)
    found = {problem.path: (problem.place, problem.message) for problem in problems(file)}

    def line(number: int) -> str:
        return f"{file}:{number}"

    assert found.pop("stages.Tune")[0] == line(15)
    assert found == {
        "model.vision_encoder": (
            line(3),
            "no vision_encoder is called 'clipp'. Did you mean 'clip' or 'blip2'?"
            " Installed: blip2, clip, dinov2, fused, open_clip, siglip, timm.",
        ),
        "model.image_splitter.color.2": (
            line(4),
            "should be less than or equal to 255; it is 256 (Red, green and blue of the border, 0..255)",
        ),
        "model.connector.depht": (
            line(7),
            "there is no such field. Did you mean 'depth'?"
            " Fields here: name, depth, activation, input_norm, output_scale, checkpoint.",
        ),
        "model.connector.activation": (
            line(8),
            "should be 'gelu', 'gelu_tanh', 'relu' or 'silu'; it is 'rulu' (Between the layers)",
        ),
        "model.language_model": (line(9), "say which language_model by its name: one of hf_causal, llama, vicuna"),
        "stages.align.tuner": (
            line(12),
            "no tuner is called 'frosen'. Did you mean 'frozen'? Installed: frozen, full, lora, peft, qlora.",
        ),
        "stages.align.lr": (line(14), "should be a valid number; it is 'fast'"),
        "stages.Tune.tuner.rank": (line(16), "should be greater than or equal to 1; it is 0 (Rank of the update)"),
        "stages.Tune.data.sources.0.weigth": (
            line(19),
            f"there is no such field. Did you mean 'weight'? Fields here: {SOURCE}.",
        ),
        "stages.Tune.data.sources.1.path": (
            line(20),
            f"is required. Fields here: {SOURCE}.",
        ),
        "stages.Tune.data.sources.1.weight": (line(20), "should be greater than 0; it is 0"),
        "stages.Tune.data.long_rows": (line(21), "should be 'truncate', 'skip' or 'error'; it is 'cut'"),
        "stages.Tune.batch": (line(22), "should be a mapping; fields here: size, micro, packing; it is 8"),
        "modle": (
            line(23),
            "there is no such field. Did you mean 'model'? Fields here: model, stages, start_from, logging, output.",
        ),
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.connector.depth=deep", "model.connector.depth: should be a valid integer"),
        ("model.connector.depth=2.5", "model.connector.depth: should be a valid integer"),
        ("model.connector.input_norm=12", "model.connector.input_norm: should be a valid boolean"),
        ("model.connector=", "model.connector: say which connector by its name: one of identity, linear, mlp"),
        ("model.connector=[mlp]", "model.connector: say which connector by its name"),
        ("model.connector.name=3", "model.connector: say which connector by its name"),
        ("model.connector=MLP", "model.connector: no connector is called 'MLP'. Did you mean 'mlp'"),
        ("model.connector=vicuna_v1", "('vicuna_v1' is the name of a conversation.)"),
        (
            "model.connector={name: linear, linear: 3}",
            "model.connector.linear: there is no such field. Fields here: name, checkpoint.",
        ),
        ("model.image_splitter=", "model.image_splitter: say which image_splitter"),
        ("model.conversation=chatm", "model.conversation: no conversation is called 'chatm'. Did you mean 'chatml'?"),
        ("model.conversation.sytem=x", "model.conversation.sytem: there is no such field. Did you mean 'system'?"),
        (
            "model.tuner=lora",
            "model.tuner: there is no such field. 'tuner' stands in stages.NAME.tuner. Fields here: vision_encoder",
        ),
        (
            "stages.align.tuner.ranc=3",
            "stages.align.tuner.ranc: there is no such field. Fields here: name, added_tokens, connector_lr.",
        ),
        ("stages.align.conversation=plane", "stages.align.conversation: no conversation is called 'plane'"),
        ("stages.align.lr=0", "stages.align.lr: should be greater than 0; it is 0"),
        ("stages.align.lr=.inf", "stages.align.lr: should be a finite number; it is inf"),
        ("stages.align.lr=.nan", "stages.align.lr: should be a finite number; it is nan"),
        ("stages.align.epochs=.inf", "stages.align.epochs: should be a finite number"),
        ("stages.align.batch.size=0", "stages.align.batch.size: should be greater than or equal to 1; it is 0"),
        ("stages.align.deepspeed.zero=4", "stages.align.deepspeed.zero: should be 0, 1, 2 or 3; it is 4"),
        (
            "stages.align.precision=fp8",
            "stages.align.precision: should be 'auto', 'fp32', 'bf16' or 'fp16'; it is 'fp8'",
        ),
        ("stages.align.optimizer.betas=[0.9]", "stages.align.optimizer.betas.1: is required"),
        (
            "stages.align.schedule=cosine",
            "stages.align.schedule: should be a mapping; fields here: decay, warmup_ratio",
        ),
        (
            "stages.align.data.pictures.alpa=white",
            "stages.align.data.pictures.alpa: there is no such field. Did you mean",
        ),
        ("stages.align=", "stages.align: should be a mapping; fields here: tuner, data"),
        ("stages=[a]", "stages: should be a valid dictionary; it is ['a']"),
        ("stages.Big Name={}", "there is no stage 'Big Name'. The spec has align, tune"),
        ("stages.Big={tuner: full}", "stages.Big: a stage's name is that of its folder"),
        ("start_form=x", "start_form: there is no such field. Did you mean 'start_from'?"),
    ],
)
def test_one_mistake(override: str, message: str, told: Told, base: Path) -> None:
    text = told(base, override)
    assert message in text
    assert text.startswith(f"override {override!r}: ")


def test_a_missing_field_is_placed_at_what_lacks_it(told: Told, write: Write, base: Path) -> None:
    # The line that `depth` had below must not be shown for a part that has replaced it.
    child = write("specs/child.yaml", "extends: base.yaml\nstages:\n  new:\n    lr: 1e-3\n")
    assert told(child).startswith(f"{child}:3: stages.new.tuner: is required.")


def test_a_part_by_its_name_alone_is_placed_where_it_is_named(told: Told, write: Write, base: Path) -> None:
    child = write("specs/child.yaml", "extends: base.yaml\n\nmodel: {image_splitter: pat,\n        connector: mpl}\n")
    assert told(child).splitlines() == [
        f"{child}:3: model.image_splitter: no image_splitter is called 'pat'."
        " Did you mean 'pad'? Installed: anyres, hd, pad, square.",
        f"{child}:4: model.connector: no connector is called 'mpl'."
        " Did you mean 'mlp'? Installed: identity, linear, mlp, perceiver, pixel_shuffle, pool, qformer.",
    ]
    assert told(child, "model.image_splitter=pad", "model.connector=mlq").startswith("override 'model.connector=mlq': ")
    base.write_text(base.read_text().replace("name: mlp", "name: mpl"))
    assert told(base).startswith(f"{base}:7: model.connector: no connector is called 'mpl'.")


def test_a_long_value_is_shortened(told: Told, base: Path) -> None:
    (line,) = told(base, f"stages.align.lr={'x' * 500}").partition("stages.align.lr: ")[2:]
    assert line.endswith("...")
    assert len(line) < 200


def test_numbers_may_be_written_as_whole_ones(base: Path) -> None:
    spec = load_spec(base, ["stages.align.lr=1", "stages.align.epochs=2", "model.connector.depth=4.0"])
    assert (spec.stages["align"].lr, spec.stages["align"].epochs, spec.model.connector.depth) == (1.0, 2.0, 4)


def test_defaults_are_the_papers(base: Path) -> None:
    stage = load_spec(base).stages["tune"]
    assert (stage.lr, stage.epochs, stage.batch.size, stage.seed) == (2e-5, 1.0, 16, 42)
    assert (stage.schedule.decay, stage.schedule.warmup_ratio) == ("cosine", 0.03)
    assert (stage.optimizer.weight_decay, stage.optimizer.betas) == (0.0, (0.9, 0.999))
    assert (stage.data.long_rows, stage.data.bad_rows, stage.data.image_placement) == ("truncate", "error", "front")


def test_specs_are_frozen(base: Path) -> None:
    spec = load_spec(base)
    with pytest.raises(ValueError, match="frozen"):
        spec.model.connector.depth = 9
    with pytest.raises(ValueError, match="frozen"):
        spec.output = Path("/x")


def test_the_conversation_of_a_stage_comes_before_the_models(base: Path) -> None:
    spec = load_spec(base, ["stages.align.conversation=plain"])
    assert spec.conversation_for(spec.stages["align"]).name == "plain"  # type: ignore[union-attr]
    assert spec.conversation_for(spec.stages["tune"]).name == "chatml"  # type: ignore[union-attr]
    assert spec.conversation_for().name == "chatml"  # type: ignore[union-attr]
