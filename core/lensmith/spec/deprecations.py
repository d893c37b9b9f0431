"""What a spec uses that will go: deprecated parts and fields, each with what to use instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from lensmith.errors import Problem
from lensmith.spec.build import BASES
from lensmith_registry import PartSpec, Registry, RegistryError


def deprecations(spec: BaseModel, registry: Registry) -> list[Problem]:
    """One entry for each deprecated part (`Component(deprecated=…)`) and field (pydantic's `Field(deprecated=…)`).

    Args:
        spec: a valid spec, or a section of one; only fields that it sets count.
        registry: the parts.
    """
    return list(_below(spec, "", registry))


def _below(value: Any, path: str, registry: Registry) -> Iterator[Problem]:
    if isinstance(value, PartSpec):
        yield from _part(value, path, registry)
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            if name not in value.model_fields_set:
                continue
            here = f"{path}.{name}" if path else name
            if field.deprecated:
                yield Problem(here, f"is deprecated: {field.deprecation_message}")
            yield from _below(value.__dict__[name], here, registry)  # reading the attribute would warn again
    elif isinstance(value, (list, tuple, Mapping)):
        for key, below in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _below(below, f"{path}.{key}", registry)


def _part(value: PartSpec, path: str, registry: Registry) -> Iterator[Problem]:
    name = value.__dict__.get("name")
    for kind, base in BASES.items():
        if isinstance(value, base) and isinstance(name, str):
            try:
                component = registry.get(kind, name)
            except RegistryError:
                continue
            if component.deprecated:
                yield Problem(path, f"{component} is deprecated: {component.deprecated}")
