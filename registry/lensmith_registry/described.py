"""Models whose fields are described by the text below them, read from the source only when somebody asks."""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler

from lensmith_registry.scalars import exact_scalars

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


class Described(BaseModel):
    """Base of models that describe each field in a string below it, and whose numbers and truth values are exact.

    pydantic's `use_attribute_docstrings` does the first, but reads the source of every class while it is imported,
    which is a tenth of the time that a command takes to start. Its `strict` does the second, but also refuses lists
    for tuples and text for paths and enumerations, which is all that a file can hold.
    """

    model_config = ConfigDict(defer_build=True, allow_inf_nan=False)

    @classmethod
    def field_descriptions(cls) -> dict[str, str]:
        """The descriptions of all fields, those of base classes included."""
        found: dict[str, str] = {}
        for owner in reversed(cls.__mro__):
            if issubclass(owner, Described) and owner.model_fields:
                made_in_function = "<locals>" in owner.__qualname__
                found |= _texts(owner.__module__, in_functions=made_in_function).get(owner.__qualname__, {})
        own = {name: field.description for name, field in cls.model_fields.items() if field.description}
        return {name: text for name, text in {**found, **own}.items() if name in cls.model_fields}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return exact_scalars(handler(source))

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in cls.field_descriptions().items():
            if name in properties:
                properties[name].setdefault("description", text)
        return schema


@cache
def _texts(module: str, *, in_functions: bool) -> Mapping[str, Mapping[str, str]]:
    """Of every class of a module, by qualified name: the strings below its fields.

    Args:
        module: its name.
        in_functions: also of classes that functions make, which takes twice the time.
    """
    try:
        source = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return {}  # no source, no descriptions
    texts: dict[str, dict[str, str]] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                texts[prefix + node.name] = _below_fields(node.body)
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                visit(node.body, f"{prefix}{node.name}.<locals>.")

    for text in (source,) if in_functions else (_without_functions(source), source):
        with contextlib.suppress(SyntaxError):
            visit(ast.parse(text).body, "")
            break
    return texts


def _without_functions(source: str) -> str:
    """A module with `pass` for every function. Where the layout is unusual, the result may not be Python."""
    kept = []
    inside: int | None = None
    for line in source.splitlines():
        stripped = line.lstrip()
        indent = len(line) - len(stripped)
        if inside is not None and (not stripped or indent > inside or stripped[0] in ")]}"):
            continue
        inside = indent if stripped.startswith(("def ", "async def ", "@")) else None
        kept.append(line if inside is None else " " * indent + "pass")
    return "\n".join(kept)


def _below_fields(body: list[ast.stmt]) -> dict[str, str]:
    found = {}
    for field, text in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            found[field.target.id] = inspect.cleandoc(text.value.value)
    return found
