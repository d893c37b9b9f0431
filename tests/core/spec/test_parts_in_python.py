"""Specs built in Python, and registries that differ from what is installed: one part of a kind, or an odd one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith import Component, ConnectorSpec, Kind, PartSpec, SpecError, VisionEncoderSpec, load_spec
from lensmith.spec import dump, installed, part_class, run_spec_class
from lensmith.spec.schema import json_schema
from lensmith.spec.yaml import read_document
from lensmith_registry import Plugin, Registry, UnknownComponentError

Told = Callable[..., str]


class Only(ConnectorSpec):
    """The only connector."""

    depth: int = 2
    linear: int = 0


def registry_with(*connectors: Component) -> Registry:
    """What is installed, but with other connectors."""
    others = [
        Plugin(
            "rest", "lensmith", "0", "m", components=tuple(c for c in installed().components() if c.kind != "connector")
        ),
        Plugin("mine", "mine", "1", "m", components=connectors),
    ]
    return Registry(others)


def connector(name: str, spec: type[PartSpec] = Only) -> Component:
    return Component(Kind.CONNECTOR, name, spec, "m:C", "a part", "mine", "1.5")


@pytest.fixture
def data(base: Path) -> dict[str, Any]:
    return copy.deepcopy(read_document(base).data)


def refusal(data: Any, registry: Registry, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(data, overrides, registry)
    return str(caught.value)


def installed_spec(kind: Kind, name: str) -> type[PartSpec]:
    return installed().get(kind, name).spec


def test_a_part_spec_object_stands_for_its_mapping(data: dict[str, Any]) -> None:
    expected = load_spec(data, ["model.connector={name: mlp, depth: 3}", "stages.align.tuner=lora"])
    data["model"]["connector"] = installed_spec(Kind.CONNECTOR, "mlp")(depth=3)
    data["stages"]["align"]["tuner"] = installed_spec(Kind.TUNER, "lora")()
    spec = load_spec(data)
    assert spec == expected
    assert spec.model.connector.name == "mlp"
    assert load_spec(dump(spec)) == spec


def test_an_object_of_the_tagged_class_is_taken_as_it_is(data: dict[str, Any]) -> None:
    tagged = part_class(Kind.CONNECTOR, "mlp", installed())(depth=4)
    data["model"]["connector"] = tagged
    assert load_spec(data).model.connector == tagged


def test_an_object_of_another_kind_is_refused(data: dict[str, Any]) -> None:
    data["model"]["connector"] = installed_spec(Kind.TUNER, "lora")()
    assert "model.connector: LoraSpec is not the spec of an installed connector" in refusal(data, installed())


def test_an_object_with_two_names_is_refused(data: dict[str, Any]) -> None:
    data["model"]["connector"] = Only()
    text = refusal(data, registry_with(connector("one"), connector("two")))
    assert "model.connector: Only is the spec of one and two; give a mapping with the `name` you mean" in text


def test_the_source_of_a_python_spec_is_called_so(data: dict[str, Any]) -> None:
    data["model"]["connector"]["depth"] = 0
    assert refusal(data, installed()).startswith("spec: model.connector.depth: ")


def test_one_registered_part_is_still_chosen_by_name(data: dict[str, Any]) -> None:
    registry = registry_with(connector("only"))
    for written in ("only", {"name": "only", "depth": 2}, Only(depth=2)):
        data["model"]["connector"] = written
        spec = load_spec(data, registry=registry)
        assert spec.model.connector.model_dump() == {"name": "only", "depth": 2, "linear": 0}
        assert load_spec(dump(spec), registry=registry) == spec
    data["model"]["connector"] = {"depth": 3}
    assert "model.connector: say which connector by its name: one of only" in refusal(data, registry)
    data["model"]["connector"] = "mlp"
    assert "no connector is called 'mlp'. Installed: only." in refusal(data, registry)
    data["model"]["connector"] = {"name": "only", "depht": 3}
    assert "model.connector.depht: there is no such field. Did you mean 'depth'? Fields here: name, depth, linear." in (
        refusal(data, registry)
    )
    data["model"]["connector"] = {"name": "only", "depth": "x"}
    assert "model.connector.depth: should be a valid integer" in refusal(data, registry)
    assert json_schema(registry)["$defs"]["Only"]["properties"]["name"]["const"] == "only"


def test_no_registered_part_is_told(data: dict[str, Any]) -> None:
    registry = registry_with()
    data["model"]["connector"] = "mlp"
    assert "model.connector: no connector is called 'mlp'. Installed: none." in refusal(data, registry)
    data["model"]["connector"] = {"depth": 3}
    assert "model.connector: say which connector by its name: one of none" in refusal(data, registry)
    assert json_schema(registry)["properties"]["model"]


def test_a_field_that_is_called_like_the_part(data: dict[str, Any]) -> None:
    for others in ((), (connector("other", ConnectorSpec),)):
        registry = registry_with(connector("linear"), *others)
        data["model"]["connector"] = {"name": "linear", "linear": "x"}
        assert "spec: model.connector.linear: should be a valid integer" in refusal(data, registry)


def test_a_part_of_the_wrong_base_is_refused_alone(data: dict[str, Any]) -> None:
    class Wrong(VisionEncoderSpec):
        """Not a connector's."""

    registry = registry_with(connector("good"), connector("wrong", Wrong), connector("bare", PartSpec))
    data["model"]["connector"] = "good"
    assert load_spec(data, registry=registry).model.connector.name == "good"
    for name, spec in (("wrong", "Wrong"), ("bare", "PartSpec")):
        data["model"]["connector"] = name
        assert (
            f"model.connector: connector '{name}' of mine 1.5 cannot be used: its spec {spec} must derive from"
            " lensmith.ConnectorSpec"
        ) in refusal(data, registry)
    assert json_schema(registry)


def test_a_spec_class_is_not_changed_by_being_registered(data: dict[str, Any]) -> None:
    load_spec(data | {"model": data["model"] | {"connector": "only"}}, registry=registry_with(connector("only")))
    assert "name" not in Only.model_fields
    assert Only(depth=3) == Only(depth=3)
    assert part_class(Kind.CONNECTOR, "only", registry_with(connector("only"))).__doc__ == Only.__doc__


def test_one_class_under_two_names() -> None:
    registry = registry_with(connector("one"), connector("two"))
    classes = [part_class(Kind.CONNECTOR, name, registry) for name in ("one", "two")]
    assert [part().name for part in classes] == ["one", "two"]  # type: ignore[attr-defined]


def test_part_class_of_nothing() -> None:
    with pytest.raises(UnknownComponentError, match="no connector is called 'mpl'"):
        part_class(Kind.CONNECTOR, "mpl", installed())


def test_the_spec_class_is_built_once_for_a_registry() -> None:
    assert run_spec_class(installed()) is run_spec_class(installed())
    assert run_spec_class(registry_with()) is not run_spec_class(installed())


def test_a_missing_field_is_not_placed_at_the_part_that_was_replaced(base: Path) -> None:
    class Demanding(ConnectorSpec):
        """Needs what the part below has."""

        depth: int

    registry = registry_with(connector("mlp"), connector("demanding", Demanding))
    child = base.with_name("child.yaml")
    child.write_text("extends: base.yaml\nmodel:\n  connector:\n    name: demanding\n")
    assert refusal(child, registry).startswith(
        f"{child}:3: model.connector.depth: is required. Fields here: name, depth."
    )
