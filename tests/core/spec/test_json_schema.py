"""The JSON Schema for editors: it accepts every spec that we ship and whatever a user may write, and no misspelling."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lensmith import Component, ConnectorSpec, Kind
from lensmith.spec import dump, installed, load_spec, recipes
from lensmith.spec.build import BASES
from lensmith.spec.schema import json_schema
from lensmith.spec.yaml import read_document
from lensmith_registry import BrokenPluginError, Plugin, Registry

ROOT = Path(__file__).parents[3]
STUDIES = r"^base:"
EXAMPLES = sorted(f for f in (ROOT / "examples").glob("*/*.yaml") if not re.search(STUDIES, f.read_text(), re.M))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema(installed())


@pytest.fixture(scope="module")
def errors(schema: dict[str, Any]) -> Callable[[Any], list[str]]:
    validator = jsonschema.Draft202012Validator(schema)
    return lambda data: [error.message for error in validator.iter_errors(data)]


Errors = Callable[[Any], list[str]]


def test_it_is_a_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("name", sorted(recipes(installed())))
def test_shipped_recipes_are_valid(name: str, errors: Errors) -> None:
    assert errors(read_document(recipes(installed())[name]).data) == []


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_examples_are_valid(file: Path, errors: Errors) -> None:
    assert errors(read_document(file).data) == []


def test_specs_of_these_tests_are_valid(spec: dict[str, Any], base: Path, errors: Errors) -> None:
    assert errors(spec) == []
    assert errors(read_document(base).data) == []
    assert errors(dump(load_spec(base))) == []


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"extends": "llava-1.5-7b", "stages": {"pretrain": {"data": {"sources": {"path": "a", "images": "b"}}}}},
        {"extends": "base.yaml", "model": {"connector": {"depth": 3}}},
        {"extends": "base.yaml", "model": {"language_model": {"checkpoint": "x"}}},
        {"model": {"connector": "mlp", "conversation": None}},
        {"stages": {"a": {"data": {"sources": "rows.jsonl"}}}},
        {"stages": {"a": {"data": {"sources": ["rows.jsonl", {"path": "more.jsonl", "weight": 2}]}}}},
        {"stages": {"a": {"tuner": "lora", "batch": {"size": 8}}}, "output": "runs/x"},
    ],
)
def test_what_a_user_may_write(data: dict[str, Any], errors: Errors) -> None:
    assert errors(data) == []


@pytest.mark.parametrize(
    "data",
    [
        {"modle": {}},
        {"extends": 3},
        {"model": {"conector": "mlp"}},
        {"model": {"connector": "mpl"}},
        {"model": {"connector": {"name": "mpl"}}},
        {"model": {"connector": {"name": "mlp", "depht": 3}}},
        {"model": {"connector": {"name": "linear", "depth": 3}}},
        {"model": {"connector": {"name": "mlp", "depth": 0}}},
        {"model": {"connector": {"name": "mlp", "activation": "rulu"}}},
        {"stages": {"a": {"tuner": "mlp"}}},
        {"stages": {"a": {"lr": "fast"}}},
        {"stages": {"a": {"lr": 0}}},
        {"stages": {"a": {"data": {"sources": [{"weigth": 2}]}}}},
        {"stages": {"a": {"data": {"sources": 3}}}},
        {"stages": {"a": {"deepspeed": {"zero": 4}}}},
        {"output": 3},
    ],
)
def test_what_it_refuses(data: dict[str, Any], errors: Errors) -> None:
    assert errors(data)


def test_every_installed_part_is_offered_with_its_fields_explained(schema: dict[str, Any]) -> None:
    kinds = {"tuner": "StageSpec"} | dict.fromkeys((k.value for k in BASES if k is not Kind.TUNER), "ModelSpec")
    for kind, owner in kinds.items():
        choices = schema["$defs"][owner]["properties"][kind]["anyOf"]
        names = installed().names(kind)
        assert {"type": "string", "enum": names} in choices
        parts = [schema["$defs"][c["$ref"].rpartition("/")[2]] for c in choices if "$ref" in c]
        assert [part["properties"]["name"]["const"] for part in parts] == names
        for part in parts:
            assert all("description" in field for field in part["properties"].values()), part["title"]
    for section in ("StageSpec", "DataSpec", "SourceSpec", "BatchSpec"):
        assert all("description" in field for field in schema["$defs"][section]["properties"].values())


def test_a_part_that_no_file_can_hold_is_named() -> None:
    class Odd(ConnectorSpec):
        function: Callable[[], int] = int

    odd = Component(Kind.CONNECTOR, "odd", Odd, "m:C", "odd", "odd-parts", "0.2")
    registry = Registry([*installed().plugins, Plugin("odd", "odd-parts", "0.2", "m", components=(odd,))])
    with pytest.raises(BrokenPluginError, match=r"connector 'odd' of odd-parts 0\.2 has a field that no spec file can"):
        json_schema(registry)
