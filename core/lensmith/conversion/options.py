"""`KEY=VALUE` on the command line to the spec of an importer or exporter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import ValidationError

from lensmith.errors import LensmithError
from lensmith.spec.build import installed, part_class
from lensmith.spec.yaml import parse_scalar
from lensmith_registry import Kind, PartSpec


def as_option(text: str, spec: type[PartSpec], field: str) -> Any:
    """The value of `KEY=TEXT`: read as YAML, but nothing after the sign is empty text for a field that takes text.

    Args:
        text: after the sign.
        spec: whose field it is.
        field: its name.
    """
    known = spec.model_fields.get(field)
    takes_text = known is not None and (known.annotation is str or str in get_args(known.annotation))
    return "" if not text.strip() and takes_text else parse_scalar(text)


def settings(kind: Kind, name: str, options: Sequence[str]) -> PartSpec:
    """A validated spec.

    Raises:
        LensmithError: every option that is wrong, with the fields there are.
    """
    spec: Any = part_class(kind, name, installed())
    data: dict[str, Any] = {}
    for option in options:
        field, separator, text = option.partition("=")
        if not separator or not field.isidentifier():
            raise LensmithError(f"option {option!r}: an option reads KEY=VALUE")
        data[field] = as_option(text, spec, field)
    try:
        checked: PartSpec = spec.model_validate(data)
        return checked
    except ValidationError as error:
        fields = ", ".join(field for field in spec.model_fields if field != "name") or "none"
        told = []
        for detail in error.errors(include_url=False):
            place = ".".join(map(str, detail["loc"]))
            known = "there is no such option" if detail["type"] == "extra_forbidden" else detail["msg"]
            told.append(f"{place}: {known.removeprefix('Value error, ')}")
        raise LensmithError(f"{kind} {name!r}: {'; '.join(told)}. Its options: {fields}") from error
