"""Fields that take numbers as numbers and truth values as truth values, whatever pydantic would convert to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

_EXACT = {"float", "bool"}
_NESTED = {"model", "dataclass", "typed-dict"}
"""Classes below a class: each of ours makes its own fields exact, a stranger's stay as they are."""
_NOT_SCHEMAS = {"metadata", "default", "serialization", "ref", "cls", "config"}


def exact_scalars(schema: CoreSchema) -> CoreSchema:
    """The schema of a class whose `int`, `float`, `bool` and numeric literals convert nothing but whole floats to ints.

    `true` is no 1.0, `"1e-3"` no number and 1 no truth value; `1e3` is a whole number where one is asked for.
    """
    return cast("CoreSchema", _exact(schema, top=True))


def _exact(node: Any, *, top: bool = False) -> Any:
    if isinstance(node, list):
        return [_exact(child) for child in node]
    if not isinstance(node, dict):
        return node
    kind = node.get("type")
    if kind in _EXACT:
        return {**node, "strict": True}
    if kind == "int":
        return _after(_whole, {**node, "strict": True})
    if kind == "literal":
        numbers = any(isinstance(value, int) and not isinstance(value, bool) for value in node["expected"])
        return _after(_not_truth, node) if numbers else node
    if kind in _NESTED and not top:
        return node
    inside = kind in ("definitions", "function-wrap", "function-before", "function-after")  # of the class itself
    return {
        key: child if key in _NOT_SCHEMAS else _exact(child, top=top and inside and key in ("schema", "definitions"))
        for key, child in node.items()
    }


def _after(function: Any, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function-before", "function": {"type": "no-info", "function": function}, "schema": schema}


def _whole(value: Any) -> Any:
    """1e3 as 1000. Floats past 2^53 are not exact, so that they do not name a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _not_truth(value: Any) -> Any:
    """A truth value or a float as text, which equals no number."""
    return str(value).lower() if isinstance(value, (bool, float)) else value
