"""`path=value` on the command line: typed like YAML, applied last, and told as what is wrong where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith import load_spec
from lensmith.spec.compose import apply_override

Told = Callable[..., str]


def applied(data: dict[str, Any], *overrides: str) -> dict[str, Any]:
    for override in overrides:
        apply_override(data, override)
    return data


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("3", 3),
        ("true", True),
        ("off", "off"),
        ("", None),
        ("null", None),
        ("text", "text"),
        ("'3'", "3"),
        ("a=b", "a=b"),
        ("[1, 2]", [1, 2]),
        ("{x: 1}", {"x": 1}),
        ("12:30", "12:30"),
        ("lmsys/vicuna-7b-v1.5", "lmsys/vicuna-7b-v1.5"),
        ("/an/absolute path", "/an/absolute path"),
    ],
)
def test_a_value_reads_as_yaml(written: str, value: object) -> None:
    assert applied({}, f"a.b={written}") == {"a": {"b": value}}


@pytest.mark.parametrize(
    ("data", "override", "result"),
    [
        ({"a": {"b": 1, "c": 2}}, "a.b=3", {"a": {"b": 3, "c": 2}}),
        ({"a": None}, "a.b=3", {"a": {"b": 3}}),
        ({}, "a.b.c.d=3", {"a": {"b": {"c": {"d": 3}}}}),
        ({"a": [1, 2]}, "a.1=3", {"a": [1, 3]}),
        ({"a": [{"b": 1}, {"b": 2}]}, "a.1.b=3", {"a": [{"b": 1}, {"b": 3}]}),
        ({"a": [{"b": 1}]}, "a.0={c: 3}", {"a": [{"b": 1, "c": 3}]}),
        ({"a": [1, 2]}, "a=[3]", {"a": [3]}),
        ({"a": {"b": 1}}, "a={c: 2}", {"a": {"b": 1, "c": 2}}),
        ({"a": {"b": 1}}, " a.b =2", {"a": {"b": 2}}),
        # Parts, written long or short.
        ({"connector": "mlp"}, "connector.depth=3", {"connector": {"name": "mlp", "depth": 3}}),
        ({"connector": "mlp"}, "connector={depth: 3}", {"connector": {"name": "mlp", "depth": 3}}),
        ({"connector": {"name": "mlp", "depth": 3}}, "connector.name=linear", {"connector": {"name": "linear"}}),
        ({"connector": {"name": "mlp", "depth": 3}}, "connector=linear", {"connector": {"name": "linear"}}),
        ({"connector": {"name": "mlp", "depth": 3}}, "connector.name=mlp", {"connector": {"name": "mlp", "depth": 3}}),
        ({"connector": {"name": "mlp", "depth": 3}}, "connector=mlp", {"connector": {"name": "mlp", "depth": 3}}),
        ({"connector": "mlp"}, "connector.name=linear", {"connector": {"name": "linear"}}),
        # Sources, written long or short.
        ({"sources": "r"}, "sources.0.weight=2", {"sources": [{"path": "r", "weight": 2}]}),
        ({"sources": "r"}, "sources.weight=2", {"sources": {"path": "r", "weight": 2}}),
        ({"sources": ["q", "r"]}, "sources.1.weight=2", {"sources": [{"path": "q"}, {"path": "r", "weight": 2}]}),
        ({"sources": {"path": "r"}}, "sources.0.weight=2", {"sources": [{"path": "r", "weight": 2}]}),
        ({"sources": {"path": "r"}}, "sources.path=q", {"sources": {"path": "q"}}),
    ],
)
def test_paths(data: dict[str, Any], override: str, result: dict[str, Any]) -> None:
    assert applied(data, override) == result


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.connector.depth", "an override reads dotted.path=value, e.g. model.connector.depth=3"),
        ("=3", "an override reads dotted.path=value"),
        ("", "an override reads dotted.path=value"),
        ("a..b=3", "an override reads dotted.path=value"),
        (".a=3", "an override reads dotted.path=value"),
        ("a b=3", "an override reads dotted.path=value"),
        ("a[0]=3", "an override reads dotted.path=value"),
        ("--lr=3", "there is no such field"),
        ("extends=other", "`extends` stands in a file"),
        ("model.connector=[1", "not valid YAML"),
        ("model.connector=a: b: c", "not valid YAML"),
        ("model.connector={a: 1, a: 2}", "the key 'a' appears twice"),
        ("model.connector=*x", "found undefined alias 'x'"),
        ("model.connector=!!python/name:os ''", "the tag !!python/name:os is not supported"),
        ("model.connector=\udcff", "is not allowed"),
        ("model.connector.depth.x=3", "model.connector.depth is not a mapping or list"),
        ("output.x.y=3", "output is not a mapping or list"),
        ("stages.tune.data.sources.2.weight=3", "stages.tune.data.sources has no item '2'; it has 2, counted from 0"),
        ("stages.tune.data.sources.-1.weight=3", "stages.tune.data.sources has no item '-1'"),
        ("stages.tune.data.sources.weight=3", "stages.tune.data.sources has no item 'weight'"),
        ("stages.tune.data.sources.²=3", "an override reads dotted.path=value"),
    ],
)
def test_overrides_that_cannot_be_applied(override: str, message: str, told: Told, base: Path) -> None:
    base.write_text(base.read_text() + "output: runs/x\n")
    text = told(base, override)
    assert text.startswith(f"override {override!r}: ")
    assert message in text


def test_all_bad_overrides_are_told_at_once(told: Told, base: Path) -> None:
    lines = told(base, "model.connector.depth=4", "a", "b=[", "model.connector.depth.x=1").splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "override 'a'",
        "override 'b=['",
        "override 'model.connector.depth.x=1'",
    ]


def test_the_last_of_two_wins(base: Path) -> None:
    spec = load_spec(base, ["model.connector.depth=4", "model.connector.depth=5"])
    assert spec.model.connector.depth == 5


@pytest.mark.parametrize("naming", ["model.connector.name=mlp", "model.connector=mlp", "model.connector={name: mlp}"])
def test_a_name_takes_no_override_away(naming: str, base: Path) -> None:
    for overrides in (["model.connector.depth=7", naming], [naming, "model.connector.depth=7"]):
        spec = load_spec(base, ["model.connector.name=linear", *overrides])
        assert (spec.model.connector.name, spec.model.connector.depth) == ("mlp", 7)


def test_overrides_reach_every_corner(base: Path) -> None:
    spec = load_spec(
        base,
        [
            "stages.align.lr=1e-4",
            "stages.align.optimizer.betas=[0.9, 0.95]",
            "stages.tune.tuner.rank=8",
            "stages.tune.data.sources.1.fraction=0.5",
            "stages.tune.data.pictures.alpha=drop",
            "stages.extra.tuner=full",
            "stages.extra.data.sources=rows.jsonl",
            "model.image_splitter.color=[1, 2, 3]",
        ],
    )
    assert spec.stages["align"].lr == 1e-4
    assert spec.stages["align"].optimizer.betas == (0.9, 0.95)
    assert spec.stages["tune"].tuner.rank == 8
    assert [source.fraction for source in spec.stages["tune"].data.sources] == [1.0, 0.5]
    assert spec.stages["tune"].data.pictures.alpha == "drop"
    assert list(spec.stages) == ["align", "tune", "extra"]
    assert spec.model.image_splitter.color == (1, 2, 3)


def test_a_mistake_of_an_override_is_placed_there_and_not_in_the_file(told: Told, base: Path) -> None:
    overrides = ["model.connector.depth=0", "stages.tune.data.sources.1={weight: -1}"]
    assert told(base, *overrides).splitlines() == [
        "override 'model.connector.depth=0': model.connector.depth: should be greater than or equal to 1; it is 0"
        " (Number of linear layers, at least 1)",
        "override 'stages.tune.data.sources.1={weight: -1}': stages.tune.data.sources.1.weight:"
        " should be greater than 0; it is -1",
    ]
    assert told(base, "stages.new={lr: 1e-3}").startswith(
        "override 'stages.new={lr: 1e-3}': there is no stage 'new'. The spec has align, tune; a new stage has a tuner"
    )


def test_a_mistake_beside_an_override_stays_in_the_file(told: Told, base: Path) -> None:
    base.write_text(base.read_text().replace("depth: 3", "depth: 0"))
    assert told(base, "model.connector={activation: relu}").startswith(f"{base}:8: model.connector.depth: ")


def test_a_spec_may_be_overridden_again(base: Path) -> None:
    spec = load_spec(base)
    assert load_spec(spec, ["model.connector.depth=5"]).model.connector.depth == 5
    assert load_spec(spec, ["model.connector.name=linear"]).model.connector.name == "linear"
    assert load_spec(spec) == spec
