"""Ranges of layers, found by the names of tensors alone."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from lensmith import ParameterShape
from lensmith_plugins.tuners.layers import LayerSettings, assign, height_of, layer_of
from lensmith_plugins.tuners.specs import FullSpec

LLAMA = (
    "network.model.embed_tokens.weight",
    *(f"network.model.layers.{n}.self_attn.q_proj.weight" for n in range(4)),
    "network.model.norm.weight",
    "network.lm_head.weight",
)
SHAPES = {LLAMA[0]: (50, 8), LLAMA[-1]: (50, 8), "network.model.norm.weight": (8,)}
TENSORS = tuple(ParameterShape(name, SHAPES.get(name, (8, 8))) for name in LLAMA)


def settings(*layers: str, **more: Any) -> list[LayerSettings]:
    return [LayerSettings(layers=one, **more) for one in layers]


def chosen(*layers: str) -> list[list[str]]:
    return [[t.name.split(".", 2)[2] for t in own] for _, own in assign("language_model", settings(*layers), TENSORS)]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("network.model.layers.12.mlp.up_proj.weight", 12),
        ("network.transformer.h.3.attn.c_attn.weight", 3),
        ("network.gpt_neox.layers.0.mlp.dense.bias", 0),
        ("network.encoder.layers.7.layer_norm1.weight", 7),
        ("network.blocks.22.norm1.weight", 22),
        ("network.visual.transformer.resblocks.5.ln_1.weight", 5),
        ("network.stages.2.blocks.11.conv_dw.weight", 2),
        ("network.model.layers.3.block_sparse_moe.experts.0.w1.weight", 3),
        ("network.model.norm.weight", None),
        ("network.model.layers_norm.0.weight", None),
    ],
)
def test_the_outermost_number_counts(name: str, number: int | None) -> None:
    assert layer_of(name) == number


def test_numbers_ranges_and_words() -> None:
    layer = "layers.{}.self_attn.q_proj.weight".format
    assert chosen("2-3", "0") == [[layer(2), layer(3)], [layer(0)]]
    assert chosen("0, 2-3") == [[layer(0), layer(2), layer(3)]]
    assert chosen("embeddings", "head") == [["embed_tokens.weight"], ["weight"]]
    assert chosen("1-3, head", "rest") == [
        [layer(1), layer(2), layer(3), "weight"],
        ["embed_tokens.weight", layer(0), "norm.weight"],
    ]
    assert sum(map(len, chosen("all"))) == len(TENSORS)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["2-4"], "language_model: layers 2-4: there is no layer 4; it has 0-3"),
        (["9"], "there is no layer 9; it has 0-3"),
        (["0-2", "2-3"], "layers.2.self_attn.q_proj.weight is in '0-2' and in '2-3'"),
        (["rest", "rest"], "2 entries name `rest`; one may"),
    ],
)
def test_what_is_not_there_or_named_twice(layers: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("(", r"\(")):
        assign("language_model", settings(*layers), TENSORS)


def test_a_tied_head_is_none() -> None:
    with pytest.raises(ValueError, match="no head of its own"):
        assign("language_model", settings("head"), TENSORS[:-1])
    with pytest.raises(ValueError, match="none of its tensors belongs to a numbered layer"):
        assign("connector", settings("1"), (ParameterShape("0.weight", (2, 2)),))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"layers": "16-"}, "'16-' is neither a layer, a range like 16-31, nor one of all, embeddings, head, rest"),
        ({"layers": "3-1"}, "the range 3-1 ends before it begins"),
        ({"layers": " , "}, "names no layer"),
        ({"layers": "all, 3"}, "`all` stands alone"),
        ({"layer_decay": 0.9}, "layer_decay needs an `lr`"),
    ],
)
def test_a_spec_that_cannot_be(field: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TypeAdapter(FullSpec).validate_python({"language_model": field})


def test_short_forms() -> None:
    def read(value: Any) -> list[dict[str, Any]]:
        return list(TypeAdapter(FullSpec).validate_python({"language_model": value}).model_dump()["language_model"])

    whole = {"layers": "all", "lr": None, "weight_decay": None, "layer_decay": None}
    assert read(True) == [whole]
    assert read(False) == []
    assert read({"layers": 3}) == [{**whole, "layers": "3"}]
    assert read([{"layers": [1, "3-4"]}]) == [{**whole, "layers": "1, 3-4"}]


def test_heights_of_a_decay() -> None:
    assert [height_of(t, 4) for t in TENSORS] == [-1, 0, 1, 2, 3, 4, 4]
