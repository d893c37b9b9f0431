"""What pydantic found wrong with a spec, told to its user: the place, what may stand there, what was probably meant."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lensmith.errors import Problem
from lensmith.spec import elsewhere
from lensmith.spec.yaml import Document, SpecKeys
from lensmith_registry import Kind, PartSpec

MOST = 50
"""Problems of one spec that are told; a file with more is not a spec with mistakes."""
_LONGEST = 80
"""Characters of a value or key that are shown."""


@dataclass(frozen=True, eq=False)
class Choice:
    """Stands in an annotation beside the union of the parts to choose from."""

    kind: Kind
    classes: Mapping[str, type[PartSpec]]


def told(error: ValidationError, data: Any, documents: Sequence[Document], root: Any) -> list[Problem]:
    """The problems of a spec, the first `MOST` of them and the number of the others.

    Args:
        error: pydantic's.
        data: the merged data that it is about.
        documents: where the data came from.
        root: the run spec's class.
    """
    details = error.errors(include_url=False)
    problems = [_problem(detail, data, documents, root) for detail in details[:MOST]]
    if more := len(details) - MOST:
        problems += [Problem("", f"and {more:,} more problems; mend these first")] if more > 0 else []
    return problems


def place(path: SpecKeys, documents: Sequence[Document]) -> str:
    """Where a value was said: by the most specific document that settles it, else nearest to it."""
    nearest, longest = documents[0], 0
    for document in documents:
        length, settled = document.reach(path)
        if settled:
            return document.place(path[:length])
        if length > longest:
            nearest, longest = document, length
    return nearest.place(path[:longest])


def _problem(detail: ErrorDetails, data: Any, documents: Sequence[Document], root: Any) -> Problem:
    path = _without_tags(tuple(key for key in detail["loc"] if key != "[key]"), data, root)
    # What is missing has no line; a line for it would be of another part, which this one has replaced.
    said = {"missing": path[:-1], "part": (*path, "name")}.get(detail["type"], path)
    return Problem(
        ".".join(_short(str(key)) for key in path), _message(detail, path, data, root), place(said, documents)
    )


def _short(key: str) -> str:
    return key if len(key) <= _LONGEST else key[: _LONGEST - 3] + "..."


def _without_tags(loc: SpecKeys, data: Any, root: Any) -> SpecKeys:
    """pydantic puts a union's tag into the path; a user never wrote it there."""
    path: list[int | str] = []
    here, value = _below(root), data
    tag_follows = False
    for element in loc:
        if tag_follows and element == _name(value):
            tag_follows = False
            continue
        here, value = _step(here, value, element)
        tag_follows = isinstance(here, Choice) and len(here.classes) > 1
        path.append(element)
    return tuple(path)


def _message(detail: ErrorDetails, path: SpecKeys, data: Any, root: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        fields = _fields_at(path[:-1], data, root)
        hint = _hint(path, fields, root)
        return f"there is no such field.{hint} Fields here: {', '.join(fields) or 'none'}."
    if kind == "missing":
        fields = _fields_at(path[:-1], data, root)
        return f"is required{_meaning(path, data, root)}. Fields here: {', '.join(fields)}."
    if kind == "part":
        return str(context["text"])
    said = shown(detail["input"])
    if kind == "model_type":
        return f"should be a mapping; fields here: {', '.join(_fields_at(path, data, root))}; it is {said}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    return f"{message}; it is {said}{_cure(kind, detail['input'])}{_meaning(path, data, root)}"


def shown(value: Any) -> str:
    """A value as a spec would write it, cut where it is long."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(str(value)[: 2 * _LONGEST] if isinstance(value, str) else value)
    except ValueError:  # an integer of more digits than Python writes
        text = f"a {type(value).__name__} of thousands of digits"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _cure(kind: str, value: Any) -> str:
    """How to write what was meant, where that is plain."""
    if kind in ("float_type", "int_type") and isinstance(value, str):
        with suppress(ValueError):
            number = float(value)  # takes underscores, too
            return f", which is text; write {int(number) if number.is_integer() and '.' not in value else number}"
    if kind == "bool_type" and not isinstance(value, bool):
        return "; write true or false"
    return ""


def _hint(path: SpecKeys, fields: Sequence[str], root: Any) -> str:
    """What was probably meant by a field that is not there: ours elsewhere, another tool's, or a slip of a letter."""
    name = str(path[-1])
    if len(name) > _LONGEST:
        return ""
    stage = str(path[1]) if len(path) > 2 and path[0] == "stages" else "NAME"
    if places := own_places(name, root):
        listed = " or ".join(p.replace("NAME", stage) for p in places[:3])
        return f" {name!r} stands in {listed}."
    if meant := elsewhere.known(name):
        return f" {meant.told(name, stage)}"
    close = difflib.get_close_matches(name, fields, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def own_places(name: str, root: Any) -> list[str]:
    """Where a field of that name stands in a spec, as dotted paths with NAME for a stage's name.

    Those of parts say of which they are.
    """
    found: dict[str, list[str]] = {}
    _collect(name, _below(root), "", "", found)
    paths = []
    # A section's own field is likelier meant than one of a part, and a shallow one than a deep one.
    for path, owners in sorted(found.items(), key=lambda item: (bool(item[1][0]), item[0].count("."))):
        parts = ", ".join(owner for owner in owners if owner)
        paths.append(f"{path} (of {parts})" if parts else path)
    return paths


def _collect(name: str, here: Any, path: str, owner: str, found: dict[str, list[str]]) -> None:
    if isinstance(here, Choice):
        for part, spec in here.classes.items():
            _collect(name, spec, path, part, found)
        return
    if not _is_model(here):
        arguments = typing.get_args(here)
        if arguments:
            below = _below(arguments[-1])
            step = "NAME" if typing.get_origin(here) is dict else "0"
            _collect(name, below, f"{path}.{step}", owner, found)
        return
    for field, info in here.model_fields.items():
        if field == "name":
            continue
        inside = f"{path}.{field}".lstrip(".")
        if field == name:
            found.setdefault(inside, []).append(owner)
        if not (owner and isinstance(_below(info.annotation, info.metadata), Choice)):  # parts of parts repeat parts
            _collect(name, _below(info.annotation, info.metadata), inside, owner, found)


def _meaning(path: SpecKeys, data: Any, root: Any) -> str:
    """In brackets, what the field of a part means to which a path leads: the first clause of its description."""
    here, value = _below(root), data
    text = ""
    owner: Any
    for element in path:
        owner = here.classes.get(_name(value)) if isinstance(here, Choice) else here
        if _is_model(owner) and issubclass(owner, PartSpec):
            text = owner.field_descriptions().get(str(element), "")
        here, value = _step(here, value, element)
    clause = re.split(r"[.:;](?= |$)", " ".join(text.split()))[0]
    return f" ({clause})" if clause else ""


def _fields_at(path: SpecKeys, data: Any, root: Any) -> list[str]:
    """The fields that the section at `path` may have."""
    here, value = _below(root), data
    for element in path:
        here, value = _step(here, value, element)
    if isinstance(here, Choice):
        here = here.classes.get(_name(value))
    if _is_model(here):
        names = list(here.model_fields)
        return (["name"] if "name" in names else []) + [n for n in names if n != "name"]
    return []


def _step(here: Any, value: Any, element: int | str) -> tuple[Any, Any]:
    """What may stand at a key or position of a section, list or part, and what does."""
    if isinstance(here, Choice):
        here = here.classes.get(_name(value))
    if _is_model(here):
        field = here.model_fields.get(element)
        here = _below(field.annotation, field.metadata) if field else None
    else:
        arguments = typing.get_args(here)
        here = _below(arguments[-1]) if arguments else None
    if isinstance(value, Mapping):
        return here, value.get(element)
    inside = isinstance(value, list) and isinstance(element, int) and element < len(value)
    return here, value[element] if inside else None


def _below(annotation: Any, metadata: Sequence[Any] = ()) -> Any:
    """An annotation without what surrounds it: a model, a list or mapping, or the choice of a part."""
    for mark in metadata:
        if isinstance(mark, Choice):
            return mark
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        return _below(arguments[0], arguments[1:])
    if typing.get_origin(annotation) in (Union, UnionType):
        return _below(next(a for a in arguments if a is not type(None)))
    return annotation


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _name(value: Any) -> Any:
    return value.get("name") if isinstance(value, Mapping) else value
