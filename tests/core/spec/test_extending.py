"""`extends:`: another file or a recipe by name, merged key by key; a part is one thing and is replaced as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith import SpecError, load_spec
from lensmith.spec import installed, recipes
from lensmith.spec.compose import merge
from lensmith_registry import Plugin, Registry

Told = Callable[..., str]
Write = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"x": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": 1}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        # Parts: fields are kept while the name stays the same.
        (
            {"connector": {"name": "mlp", "depth": 3}},
            {"connector": {"input_norm": True}},
            {"connector": {"name": "mlp", "depth": 3, "input_norm": True}},
        ),
        (
            {"connector": {"name": "mlp", "depth": 3}},
            {"connector": {"name": "mlp", "input_norm": True}},
            {"connector": {"name": "mlp", "depth": 3, "input_norm": True}},
        ),
        (
            {"connector": {"name": "mlp", "depth": 3}},
            {"connector": {"name": "linear"}},
            {"connector": {"name": "linear"}},
        ),
        # A name alone means the mapping that holds nothing else.
        ({"connector": "mlp"}, {"connector": {"depth": 3}}, {"connector": {"name": "mlp", "depth": 3}}),
        ({"connector": "mlp"}, {"connector": {"name": "linear"}}, {"connector": {"name": "linear"}}),
        ({"connector": {"name": "mlp", "depth": 3}}, {"connector": "mlp"}, {"connector": {"name": "mlp", "depth": 3}}),
        ({"connector": {"name": "mlp", "depth": 3}}, {"connector": "linear"}, {"connector": {"name": "linear"}}),
        ({"tuner": "frozen"}, {"tuner": "frozen"}, {"tuner": {"name": "frozen"}}),
        # Only parts have names; other text is replaced.
        ({"output": "a"}, {"output": {"b": 1}}, {"output": {"b": 1}}),
        ({"sources": "a.jsonl"}, {"sources": {"path": "b.jsonl"}}, {"sources": {"path": "b.jsonl"}}),
        # Inside a part, a field that is called like a kind is the part's own affair.
        (
            {"connector": {"name": "pair", "tuner": "x"}},
            {"connector": {"tuner": {"y": 1}}},
            {"connector": {"name": "pair", "tuner": {"y": 1}}},
        ),
    ],
)
def test_merging(below: dict[str, Any], above: dict[str, Any], merged: dict[str, Any]) -> None:
    assert merge(below, above) == merged


def test_merging_changes_neither_side() -> None:
    below, above = {"a": {"x": 1}}, {"a": {"y": 2}}
    merge(below, above)
    assert (below, above) == ({"a": {"x": 1}}, {"a": {"y": 2}})


def test_a_file_in_another_folder(base: Path, write: Write) -> None:
    child = write("runs/child.yaml", "extends: ../specs/base.yaml\nmodel: {connector: {depth: 4}}\n")
    spec, below = load_spec(child), load_spec(base)
    assert spec.model.connector.depth == 4
    assert spec.model.vision_encoder == below.model.vision_encoder
    assert spec.stages == below.stages


def test_a_chain_of_three(base: Path, write: Write) -> None:
    write("specs/middle.yaml", "extends: base.yaml\nmodel: {connector: {depth: 4, activation: relu}}\n")
    top = write("specs/top.yaml", "extends: middle.yaml\nmodel: {connector: {depth: 5}}\n")
    connector = load_spec(top).model.connector
    assert (connector.depth, connector.activation) == (5, "relu")


def test_the_stages_keep_their_order(base: Path, write: Write) -> None:
    child = write(
        "specs/child.yaml", "extends: base.yaml\nstages: {last: {tuner: full, data: {sources: r}}, align: {lr: 2}}"
    )
    assert list(load_spec(child).stages) == ["align", "tune", "last"]


def test_yaml_may_extend_json(base: Path, write: Write) -> None:
    write("specs/child.json", '{"extends": "base.yaml", "output": "runs/x"}')
    top = write("specs/top.yaml", "extends: child.json\nmodel: {connector: linear}")
    assert load_spec(top).output == top.parent / "runs" / "x"
    assert load_spec(top).model.connector.name == "linear"


def test_a_mapping_may_extend_from_the_working_folder(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    spec = load_spec({"extends": "base.yaml", "model": {"connector": {"depth": 9}}})
    assert spec.model.connector.depth == 9


def test_a_recipe_by_name(tmp_path: Path, write: Write) -> None:
    shipped = recipes(installed())
    assert shipped
    name, file = next(iter(shipped.items()))
    assert file.stem == name
    top = write("top.yaml", f"extends: {name}\nstages: {{}}\nmodel: {{connector: {{name: mlp, depth: 7}}}}\n")
    loaded = load_spec(top)
    assert getattr(loaded.model.connector, "depth", None) == 7
    assert list(loaded.stages) == list(load_spec(name).stages)  # a recipe can be named in a file's place


def test_a_recipe_that_two_plugins_ship(tmp_path: Path, base: Path, write: Write) -> None:
    files = [write(f"{owner}/same.yaml", base.read_text()) for owner in ("ours", "theirs")]
    alone = write("theirs/alone.yaml", base.read_text())
    registry = Registry(
        [*installed().plugins, *(Plugin(f.parent.name, "d", "1", "m", recipes=(f.parent,)) for f in files)]
    )
    assert recipes(registry)["alone"] == alone
    assert "same" not in recipes(registry)
    assert load_spec({"extends": "alone"}, registry=registry).model.connector.depth == 3
    with pytest.raises(SpecError) as caught:
        load_spec({"extends": "same"}, registry=registry)
    assert f"the recipe 'same' is offered twice, by {files[0]} and {files[1]}" in str(caught.value)


def test_a_file_beside_comes_before_a_recipe(base: Path, write: Write) -> None:
    name = next(iter(recipes(installed())))
    write(f"specs/{name}.yaml", base.read_text())
    assert load_spec(write("specs/top.yaml", f"extends: {name}.yaml")) == load_spec(base)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "llava-1.5-7",
            "'llava-1.5-7' is neither a spec file (there is no {folder}/llava-1.5-7) nor a recipe. Did you mean",
        ),
        ("llava-1.5-7b.yaml", "there is no {folder}/llava-1.5-7b.yaml"),
        ("zzz", "nor a recipe. Recipes: "),
        ("/no/such.yaml", "there is no /no/such.yaml"),
        ("[a, b]", "extends: names one file or recipe"),
        ("3", "extends: names one file or recipe"),
        ("a" * 300 + ".yaml", "is neither a spec file"),
    ],
)
def test_what_cannot_be_extended(written: str, message: str, told: Told, write: Write, tmp_path: Path) -> None:
    text = told(write("top.yaml", f"output: x\nextends: {written}\n"))
    assert text.startswith(f"{tmp_path / 'top.yaml'}:2: extends: ")
    assert message.format(folder=tmp_path) in text


@pytest.mark.parametrize("again", ["top.yaml", "../specs/top.yaml", "./middle/../top.yaml"])
def test_a_circle_is_told_once_round(again: str, told: Told, write: Write) -> None:
    top = write("specs/top.yaml", "extends: middle.yaml")
    middle = write("specs/middle.yaml", f"extends: {again}")
    (top.parent / "middle").mkdir()
    assert f"extends: goes in a circle: {top} -> {middle} -> {top}" in told(top)


def test_a_circle_through_a_link(told: Told, write: Write) -> None:
    top = write("specs/top.yaml", "extends: link/top.yaml")
    (top.parent / "link").symlink_to(top.parent, target_is_directory=True)
    assert f"extends: goes in a circle: {top} -> {top}" in told(top)


def test_a_file_that_extends_itself(told: Told, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    top = write("top.yaml", "extends: top.yaml")
    monkeypatch.chdir(top.parent)
    assert f"top.yaml:1: extends: goes in a circle: {top} -> {top}" in told("top.yaml")


def test_mistakes_are_placed_in_the_file_that_says_them(told: Told, write: Write, base: Path) -> None:
    base.write_text(base.read_text().replace("depth: 3", "depth: 0"))
    child = write("runs/child.yaml", "extends: ../specs/base.yaml\n\nmodel:\n  connector: {activation: rulu}\n")
    text = told(child)
    assert f"{base}:8: model.connector.depth: should be greater than or equal to 1" in text
    assert (
        f"{child}:4: model.connector.activation: should be 'gelu', 'gelu_tanh', 'relu' or 'silu'; it is 'rulu'" in text
    )


def test_a_broken_base_is_told_by_its_own_name(told: Told, write: Write) -> None:
    broken = write("broken.yaml", "a: 1\na: 2")
    assert told(write("top.yaml", "extends: broken.yaml")).startswith(f"{broken}:2: the key 'a' appears twice")
    odd = write("odd.yaml", "- a")
    assert told(write("top.yaml", "extends: odd.yaml")).startswith(f"{odd}: a spec is a mapping")
