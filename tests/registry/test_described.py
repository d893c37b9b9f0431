"""Descriptions of fields are the strings below them, in schemas and for whoever asks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensmith_registry import Described, PartSpec


class Base(PartSpec):
    depth: int = 2
    """How many
    layers."""
    bare: int = 0
    width: int = 1
    """How wide."""


class Heir(Base):
    width: int = 4
    """How wide, of the heir."""
    told: Annotated[int, Field(description="Told by the field.")] = 0
    """Not this."""


def test_inherited_and_overridden_fields() -> None:
    assert Base.field_descriptions() == {"depth": "How many\nlayers.", "width": "How wide."}
    assert Heir.field_descriptions() == {
        "depth": "How many\nlayers.",
        "width": "How wide, of the heir.",
        "told": "Told by the field.",
    }


def test_classes_inside_functions() -> None:
    class Inner(Base):
        height: int = 1
        """How high."""

    assert Inner.field_descriptions()["height"] == "How high."


def test_schemas_hold_them() -> None:
    properties = Heir.model_json_schema()["properties"]
    assert {name: entry.get("description") for name, entry in properties.items()} == {
        **dict.fromkeys(("bare",)),
        **Heir.field_descriptions(),
    }


def test_without_source_there_are_none() -> None:
    scope: dict[str, type[Described]] = {}
    exec("class Typed(Base):\n    length: int = 0\n    'How long.'", {"Base": Base, "__name__": "nowhere"}, scope)
    assert scope["Typed"].field_descriptions() == Base.field_descriptions()
