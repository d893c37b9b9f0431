"""Parts of somebody's package that say no sizes: a plan builds them on the meta device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lensmith.parts
import lensmith.spec.build
from lensmith import (
    Component,
    Connector,
    ConnectorShape,
    ConnectorSpec,
    GenerationOptions,
    Kind,
    LanguageModelSpec,
    LanguageShape,
    Loading,
    Preprocessing,
    VisionEncoder,
    VisionEncoderSpec,
    VisionShape,
    parameter_shapes,
)
from lensmith.planning import plan
from lensmith.spec import load_spec
from lensmith.spec.check import check
from lensmith_registry import Plugin, Registry

built: list[torch.device] = []


class ConvSpec(VisionEncoderSpec):
    """An encoder without a closed form."""

    width: int = 24


class Conv(VisionEncoder):
    def __init__(self, spec: ConvSpec) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, spec.width, 14, 14)
        self.mix = nn.Linear(spec.width, spec.width)
        self.shape = VisionShape((28, 28), (2, 2), spec.width)

    @classmethod
    def build(cls, spec: Any, loading: Loading) -> Conv:
        encoder = cls(spec)
        built.append(encoder.mix.weight.device)
        return encoder

    @classmethod
    def preprocessing(cls, spec: Any) -> Preprocessing:
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError


class RecurrentSpec(LanguageModelSpec):
    """A language model without a closed form."""

    def default_conversation(self) -> str:
        return "vicuna_v1"


class Recurrent(nn.Module):
    """Only what a plan asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.cell = nn.Linear(16, 16, bias=False)
        self.head = nn.Linear(16, 50, bias=False)

    @classmethod
    def measure(cls, spec: Any) -> LanguageShape:
        with torch.device("meta"):
            model = cls()
        built.append(model.cell.weight.device)
        return LanguageShape(16, 50, 64, 1, 1, 1, 16, 16, parameter_shapes(model), head="head.weight")


class HalvingSpec(ConnectorSpec):
    """A connector without a closed form."""

    flat: bool = False


class Halving(Connector):
    """Every two tokens become one."""

    def __init__(self, spec: HalvingSpec, inputs: int, width: int) -> None:
        super().__init__()
        self.flat = spec.flat
        self.project = nn.Linear(2 * inputs, width)

    @classmethod
    def build(cls, spec: Any, encoder: VisionShape, width: int) -> Halving:
        connector = cls(spec, encoder.width, width)
        built.append(connector.project.weight.device)
        return connector

    def forward(self, features: Tensor, instruction: Any = None) -> Tensor:
        views, tokens, inputs = features.shape
        connected: Tensor = self.project(features.reshape(views, tokens // 2, 2 * inputs))
        return connected.flatten(1) if self.flat else connected


@pytest.fixture(autouse=True)
def their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    components = (
        Component(Kind.VISION_ENCODER, "conv", ConvSpec, f"{__name__}:Conv", "theirs", distribution="theirs"),
        Component(Kind.LANGUAGE_MODEL, "recurrent", RecurrentSpec, f"{__name__}:Recurrent", "theirs"),
        Component(Kind.CONNECTOR, "halving", HalvingSpec, f"{__name__}:Halving", "theirs", distribution="theirs"),
    )
    classes = {"conv": Conv, "recurrent": Recurrent, "halving": Halving}
    monkeypatch.setattr(Component, "load", lambda self, load=Component.load: classes.get(self.name) or load(self))
    ours = Plugin("rest", "lensmith", "0", "m", components=tuple(lensmith.spec.build.installed().components()))
    registry = Registry([ours, Plugin("theirs", "theirs", "1", "m", components=components)])
    for module in (lensmith.parts, lensmith.spec.build):
        monkeypatch.setattr(module, "installed", lambda: registry)
    built.clear()


def model_of(**parts: Any) -> dict[str, Any]:
    model = {"image_splitter": "pad", "connector": "linear", "vision_encoder": "conv", "language_model": "recurrent"}
    stage = {"tuner": {"name": "lora", "rank": 2}, "data": {"sources": "rows.json"}}
    return {"model": model | parts, "stages": {"tune": stage}}


def test_a_plan_measures_them() -> None:
    planned = plan(model_of())
    assert set(built) == {torch.device("meta")}
    assert planned.parameters == {
        "vision_encoder": 3 * 14 * 14 * 24 + 24 + 24 * 24 + 24,
        "image_splitter": 0,
        "connector": 24 * 16 + 16,
        "language_model": 2 * 50 * 16 + 16 * 16,
    }
    stage = planned.stages[0]
    # The cell gets an adapter; the head does not.
    by_part = {part: stage.trainable_in(part) for part in planned.parameters}
    assert by_part == {"vision_encoder": 0, "image_splitter": 0, "connector": 400, "language_model": 2 * 2 * 16}
    assert planned.as_dict()["stages"][0]["trainable_parameters_by_part"] == by_part


def test_one_of_two_is_enough(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4, "vocab_size": 70}))
    planned = plan(model_of(language_model={"name": "llama", "config": str(tmp_path)}))
    assert len(built) == 1
    assert planned.dimensions.language_model.width == planned.dimensions.connector.width == 32


def test_a_check_leaves_what_it_cannot_know() -> None:
    """It imports no torch, so a target of their language model is first refused by the plan."""
    spec = model_of()
    spec["stages"]["tune"]["tuner"]["targets"] = ["q_proj"]
    assert not [problem for problem in check(load_spec(spec)) if "tuner" in problem.path]
    assert not built
    with pytest.raises(lensmith.SpecError, match=r"'q_proj' is no linear layer of the language model.*There are: cell"):
        plan(spec)


def test_N20_a_connector_without_a_shape_is_measured() -> None:
    planned = plan(model_of(connector="halving"))
    assert set(built) == {torch.device("meta")}
    tensors = parameter_shapes(Halving(HalvingSpec(), 24, 16))
    assert planned.dimensions.connector == ConnectorShape(2, 16, None, tensors)
    assert planned.parameters["connector"] == 2 * 24 * 16 + 16


def test_N20_a_check_of_such_a_connector_builds_nothing() -> None:
    assert not [problem for problem in check(load_spec(model_of(connector="halving"))) if "connector" in problem.path]
    assert not built


def test_N20_what_such_a_connector_returns_must_be_tokens() -> None:
    with pytest.raises(
        lensmith.SpecError, match=r"\(2, 4, 24\) become \(2, 32\); a connector returns \(V, M, D\), here"
    ):
        plan(model_of(connector={"name": "halving", "flat": True}))


def test_N20_such_a_connector_is_assembled_and_answers(
    tmp_path: Path, tiny_language_model: Path, tiny_encoder: Path
) -> None:
    encoder = {"name": "clip", "checkpoint": str(tiny_encoder)}
    language_model = {"name": "llama", "checkpoint": str(tiny_language_model)}
    spec = load_spec(model_of(vision_encoder=encoder, connector="halving", language_model=language_model))
    assembled = lensmith.assemble(spec)
    shape = assembled.connector.shape
    assert shape.tokens == assembled.vision_encoder.shape.tokens // 2
    picture = tmp_path / "picture.png"
    Image.new("RGB", (40, 40), "red").save(picture)
    assert isinstance(assembled.generate(picture, "What is this?", GenerationOptions(max_new_tokens=2)), str)
