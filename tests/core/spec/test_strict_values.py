"""Numbers are numbers, truth values are truth values, nothing is doubled, and what no machine could do is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lensmith import SpecError, load_spec
from lensmith.ablation.study import read_study
from lensmith.spec.messages import MOST

Told = Callable[..., str]
TUNE = "stages.tune"


@pytest.mark.parametrize(
    "override",
    [
        f"{TUNE}.lr=true",
        f"{TUNE}.lr='1e-3'",
        f"{TUNE}.lr=1_0",
        f"{TUNE}.lr=[1]",
        f"{TUNE}.tf32=1",
        f"{TUNE}.tf32=yes",
        f"{TUNE}.compile=0",
        f"{TUNE}.epochs=false",
        f"{TUNE}.batch.size=true",
        f"{TUNE}.batch.size='8'",
        f"{TUNE}.batch.micro=2.5",
        f"{TUNE}.deepspeed.zero=true",
        f"{TUNE}.deepspeed.zero=2.0",
        f"{TUNE}.optimizer.betas=[0.9, '0.99']",
        f"{TUNE}.optimizer.betas.0=true",
        f"{TUNE}.tuner.rank=true",
        f"{TUNE}.tuner.rank='8'",
        f"{TUNE}.tuner.dropout='0'",
        f"{TUNE}.tuner.dora=1",
        f"{TUNE}.cache.limit=true",
        f"{TUNE}.cache.limit=1_0",
        f"{TUNE}.seed=true",
        f"{TUNE}.seed='1'",
        f"{TUNE}.data.pictures.max_aspect=.inf",
        f"{TUNE}.data.pictures.max_aspect=.nan",
        f"{TUNE}.data.pictures.exif=1",
        "model.connector.depth=true",
        "model.connector.depth=3.5",
        "model.connector.input_norm=1",
        "model.image_splitter.color=[true, 0, 0]",
        "model.language_model.parse_special_text=1",
    ],
)
def test_A7_nothing_is_converted(override: str, base: Path, told: Told) -> None:
    field = override.partition("=")[0]
    assert field.removesuffix(".0") in told(base, override)


@pytest.mark.parametrize(
    ("override", "value"),
    [("lr=1", 1.0), ("lr=1e-3", 1e-3), ("max_steps=1e3", 1000), ("epochs=2", 2.0), ("tf32=true", True)],
)
def test_A7_what_is_a_number_stays_one(override: str, value: object, base: Path) -> None:
    stage = load_spec(base, [f"{TUNE}.{override}"]).stages["tune"]
    got = getattr(stage, override.partition("=")[0])
    assert got == value
    assert type(got) is type(value)


def test_A7_how_to_write_it_is_said(base: Path, told: Told) -> None:
    assert "write 0.001" in told(base, f"{TUNE}.lr='1e-3'")
    assert "write 10" in told(base, f"{TUNE}.lr=1_0")
    assert "write true or false" in told(base, f"{TUNE}.tf32=1")


@pytest.mark.parametrize(
    "override",
    [
        f"{TUNE}.seed={2**64}",
        f"{TUNE}.seed=-1",
        f"{TUNE}.data.sources.0.seed={2**70}",
        f"{TUNE}.epochs=1e300",
        f"{TUNE}.epochs=1e9",
        f"{TUNE}.max_steps=1e20",
        f"{TUNE}.max_steps={10**30}",
        f"{TUNE}.batch.size=1e12",
        f"{TUNE}.batch.micro={10**15}",
        f"{TUNE}.tuner.rank={10**11}",
        f"{TUNE}.data.sources.0.weight=1e9",
        f"{TUNE}.data.sources.0.weight=1e308",
        f"{TUNE}.data.max_length={10**20}",
        f"{TUNE}.data.workers={10**6}",
        f"{TUNE}.schedule.warmup_steps={10**20}",
        f"{TUNE}.checkpoints.every=1e20",
        "model.language_model.context_length=1e20",
        f"model.connector={{name: qformer, queries: {10**11}}}",
        f"model.connector={{name: perceiver, latents: {10**12}}}",
        f"model.connector={{name: pool, factor: {10**9}}}",
    ],
)
def test_A11_what_no_machine_can_do_is_refused(override: str, base: Path, told: Told) -> None:
    if "sources.0.weight" in override or "sources.0.seed" in override:
        override = override.replace("sources.0.", "sources.1.")
    began = time.process_time()
    text = told(base, override)
    assert time.process_time() - began < 5
    assert "should be at most" in text or "greater than or equal to 0" in text


def test_A11_a_bound_says_its_reason(base: Path, told: Told) -> None:
    assert "generators of random numbers take 64 bits" in told(base, f"{TUNE}.seed={2**64}")


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize("below", ["", "stages.tune", "model.connector"])
def test_A11_work_is_bounded_however_much_is_wrong(suffix: str, below: str, base: Path, tmp_path: Path) -> None:
    """The time limit is far above what it takes and far below what it took."""
    unknown = {f"learning_rat{number}": 1 for number in range(60_000)}
    data = load_spec(base).model_dump(mode="json")
    here = data
    for key in below.split(".") if below else ():
        here = here[key]
    here |= unknown
    file = tmp_path / f"many.{suffix}"
    file.write_text(json.dumps(data))  # JSON is YAML, too
    began = time.process_time()
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    assert time.process_time() - began < 30
    assert len(caught.value.problems) <= MOST + 1
    assert len(str(caught.value)) < 100_000


def test_A11_long_keys_and_values_are_cut(base: Path, told: Told) -> None:
    assert len(told({"model": {"x" * 100_000: 1}, "stages": ["y" * 100_000]})) < 2000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": [1, 1]}, "1 is there twice"),
        ({"seeds": [True]}, "valid integer"),
        ({"seeds": ["1"]}, "valid integer"),
        ({"seeds": True}, "valid integer"),
        ({"seeds": []}, "at least 1 item"),
        ({"seeds": list(range(1001))}, "at most 1000 items"),
        ({"seeds": [2**64]}, "at most"),
        ({"presets": {"small": {"seeds": []}}}, "at least 1 item"),
        ({"presets": {"small": {"seeds": [3, 3]}}}, "3 is there twice"),
        ({"presets": {"small": {"limit": True}}}, "valid integer"),
        ({"runs": [{"name": ""}]}, "at least 1 character"),
        ({"runs": [{"name": "  "}]}, "at least 1 character"),
        ({"axes": {"a": {"x": {"stages.tune.lr": 1}}, "stages.tune.lr": [1, 2]}}, "both set stages.tune.lr"),
        (
            {"axes": {"model.connector": ["mlp", "linear"], "model.connector.name": ["mlp", "linear"]}},
            "both set model.connector",
        ),
        ({"axes": {"stages.tune.lr": [1, 1]}}, "has 1 twice"),
        (
            {
                "axes": {"stages.tune.lr": [1, 2]},
                "findings": [
                    {"claim": "c", "source": "s", "better": {"stages.tune.lr": "1"}, "than": {"stages.tune.lr": "1"}}
                ],
            },
            "are the same choice",
        ),
    ],
)
def test_A7_studies(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    file = tmp_path / "study.json"
    file.write_text(json.dumps({"base": "base.yaml", **fields}))
    with pytest.raises(SpecError, match=message):
        read_study(file)


def test_A7_two_axes_may_set_fields_of_one_part(tmp_path: Path) -> None:
    axes = {"model.connector": ["mlp", "pool"], "model.connector.depth": [1, 2]}
    (tmp_path / "study.json").write_text(json.dumps({"base": "base.yaml", "axes": axes, "seeds": [1, 2]}))
    assert read_study(tmp_path / "study.json").seeds == [1, 2]
