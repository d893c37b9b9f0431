"""Check `spec`: what a plugin registers can be written, read, described and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lensmith.interfaces import Conversation
from lensmith.spec.build import BASES, part_class
from lensmith.spec.yaml import parse_yaml
from lensmith.testing.findings import expect, some
from lensmith.testing.kit import Kit
from lensmith.testing.subjects import Subject, promised
from lensmith_registry import Component, Kind


def spec(subject: Subject, kit: Kit) -> None:
    """Round trip through JSON, schema, example, unknown fields, descriptions, the implementation's class."""
    component = subject.component
    owner = part_class(component.kind, component.name, kit.registry)
    with promised("Every value of a spec, defaults included, can be written as JSON."):
        text = json.dumps(subject.spec.model_dump(mode="json"))
    with promised("A spec that was written as JSON is read back."):
        again = owner.model_validate(json.loads(text))
    expect(
        again.model_dump(mode="json") == json.loads(text) and again == subject.spec,
        "A spec that was written as JSON is read back equal.",
        f"{subject.spec!r} was read back as {again!r}.",
    )
    with promised("A spec class has a JSON Schema that editors can read, its defaults included."):
        json.dumps(owner.model_json_schema())
        json.dumps([f.get_default(call_default_factory=True) for f in _optional(owner)], default=_plain)
    unknown = {**json.loads(text), "a_field_that_nobody_has": 1}
    try:
        owner.model_validate(unknown)
        accepted = True
    except ValidationError:
        accepted = False
    expect(not accepted, "A spec refuses fields that it does not know.", "It accepted `a_field_that_nobody_has: 1`.")
    described = owner.field_descriptions()
    bare = [name for name in owner.model_fields if name != "name" and not described.get(name)]
    expect(
        not bare,
        "Every field of a spec has a description, a string below it, which `lensmith show` and editors tell.",
        f"{component.spec.__name__} has none for {some(bare)}.",
    )
    _example(component, owner)
    _interface(subject)


def _optional(owner: Any) -> list[Any]:
    return [field for field in owner.model_fields.values() if not field.is_required()]


def _plain(value: Any) -> Any:
    """What pydantic writes of a default that JSON has no word for."""
    from pydantic import TypeAdapter

    return TypeAdapter(type(value)).dump_python(value, mode="json")


def _example(component: Component, owner: Any) -> None:
    with promised("A record's example is the part as a spec writes it: YAML with its name."):
        text = component.example.strip()
        # As a spec file is read: `2e-5` is a number there, and text to YAML 1.1.
        example = parse_yaml(text, source="", base=Path.cwd()).data if text else {"name": component.name}
        expect(
            isinstance(example, dict) and example.get("name") == component.name,
            "A record's example is the part as a spec writes it: YAML with its name.",
            f"The example of {component} reads {component.example!r}.",
        )
        # Files that the example names are not there; nor are they asked for before a shape is.
        owner.model_validate(example)


def _interface(subject: Subject) -> None:
    kind, found = subject.kind, subject.implementation
    base_spec = _spec_bases().get(kind)
    if base_spec is None:
        return
    expect(
        issubclass(subject.component.spec, base_spec),
        f"The spec of a {kind} derives from lensmith.{base_spec.__name__}.",
        f"{subject.component.spec.__name__} does not.",
    )
    base = _bases()[kind]
    told_class = getattr(found, "__name__", repr(found))
    promise = f"The implementation of a {kind} is a subclass of lensmith.{base.__name__} with all it asks for."
    expect(isinstance(found, type) and issubclass(found, base), promise, f"{told_class} is not one.")
    lacking: frozenset[str] = getattr(found, "__abstractmethods__", frozenset())
    expect(not lacking, promise, f"{told_class} lacks {some(lacking)}.")


def _spec_bases() -> dict[Kind, type]:
    from lensmith.interfaces import formats
    from lensmith.interfaces.benchmark import BenchmarkSpec

    return {
        **BASES,
        Kind.BENCHMARK: BenchmarkSpec,
        Kind.IMPORTER: formats.ImporterSpec,
        Kind.EXPORTER: formats.ExporterSpec,
    }


def _bases() -> dict[Kind, type]:
    from lensmith import interfaces
    from lensmith.interfaces import formats
    from lensmith.interfaces.benchmark import Benchmark

    return {
        Kind.VISION_ENCODER: interfaces.VisionEncoder,
        Kind.IMAGE_SPLITTER: interfaces.ImageSplitter,
        Kind.CONNECTOR: interfaces.Connector,
        Kind.LANGUAGE_MODEL: interfaces.LanguageModel,
        Kind.TUNER: interfaces.Tuner,
        Kind.CONVERSATION: Conversation,
        Kind.BENCHMARK: Benchmark,
        Kind.IMPORTER: formats.Importer,
        Kind.EXPORTER: formats.Exporter,
    }
