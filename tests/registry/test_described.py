"""Descriptions of fields are the strings below them, in schemas and for whoever asks."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import pytest
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


UNUSUAL = '''
from lensmith_registry import Described

class One(Described):
    first: int = 0
    """Before a method."""

    def shown(
        self,
    ) -> str:
        return """
    second: int = 0
    'Not this.'
"""

    @property
    def no(self) -> int:
        return 0

    third: int = 0
    """After a method."""
'''


def test_methods_between_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unusual_spec.py").write_text(UNUSUAL)
    monkeypatch.syspath_prepend(tmp_path)
    described = importlib.import_module("unusual_spec").One.field_descriptions()
    assert described == {"first": "Before a method.", "third": "After a method."}
