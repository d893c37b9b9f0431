"""What the installed parts say of themselves, for people: fields as tables, and one Markdown page a kind."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Sequence
from typing import Any

from lensmith_registry import Component, Kind, PartSpec

INTRODUCTIONS = {
    Kind.VISION_ENCODER: "Pixels of views in, a grid of features out. V views (tiles), N tokens a view, W wide.",
    Kind.IMAGE_SPLITTER: "One picture to views, and the views' features back to one sequence.",
    Kind.CONNECTOR: "Vision features to language-model embeddings: N tokens of width W to M tokens of width D.",
    Kind.LANGUAGE_MODEL: "A causal language model behind input embeddings. B rows, T positions, D wide.",
    Kind.TUNER: "How weights are loaded, what trains, and how the result is saved.",
    Kind.CONVERSATION: "A prompt template: turns in, segments out, each supervised or not.",
    Kind.BENCHMARK: "Questions to a model and the scoring of its answers; fields are options of `lensmith score`.",
    Kind.IMPORTER: "Another project's checkpoint in, an artifact out: `lensmith import SOURCE KEY=VALUE`.",
    Kind.EXPORTER: "An artifact in, another project's files out: `lensmith export ARTIFACT --to NAME KEY=VALUE`.",
}
_METHODS = {
    Kind.VISION_ENCODER: "forward",
    Kind.IMAGE_SPLITTER: "merge",
    Kind.CONNECTOR: "forward",
    Kind.LANGUAGE_MODEL: "forward",
    Kind.CONVERSATION: "render",
}
"""The method whose docstring tells a part's shapes."""


def field_rows(spec: type[PartSpec]) -> list[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each field of a part's spec."""
    rows = []
    descriptions = spec.field_descriptions()
    for name, field in spec.model_fields.items():
        if name == "name":
            continue
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        meaning = " ".join(descriptions.get(name, "").split())
        if field.deprecated:
            meaning = f"Deprecated: {field.deprecation_message}. {meaning}".rstrip()
        rows.append((name, _type_name(field.annotation), default, meaning))
    return rows


def summary(component: Component) -> str:
    """What a part is, in one line, and what to use instead of one that goes."""
    return f"{component.summary} (deprecated: {component.deprecated})" if component.deprecated else component.summary


def example(component: Component) -> str:
    """The part as a spec writes it: YAML below its kind."""
    body = component.example.strip() or f"name: {component.name}"
    return f"{component.kind.value}:\n" + "".join(f"  {line}\n" for line in body.splitlines())


def page(kind: Kind, components: Sequence[Component]) -> str:
    """A Markdown page of the parts of one kind: summary, method, shapes, fields and an example of each.

    Args:
        kind: of all of them.
        components: in the order of the page; their implementations are imported for their shapes.

    Raises:
        BrokenPluginError: an implementation cannot be imported.
    """
    title = kind.value.replace("_", " ").capitalize()
    lines = [f"# {title}s", "", INTRODUCTIONS[kind], "", "Written by `lensmith docs`; do not edit.", ""]
    for component in components:
        lines += _section(component)
    return "\n".join(lines).rstrip() + "\n"


def _section(component: Component) -> list[str]:
    lines = [f"## `{component.name}`", "", f"{component.summary[0].upper()}{component.summary[1:]}.", ""]
    if component.deprecated:
        lines += [f"Deprecated: {component.deprecated}.", ""]
    if text := inspect.cleandoc(component.spec.__doc__ or ""):
        lines += [text, ""]
    if shapes := _shapes(component):
        lines += [f"Shapes: {shapes}", ""]
    if component.paper:
        lines += [f"Source: {component.paper}", ""]
    rows = field_rows(component.spec)
    if rows:
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
        lines += [
            "| " + " | ".join(_cell(cell, code=place < 3) for place, cell in enumerate(row)) + " |" for row in rows
        ]
        lines += [""]
    return [*lines, "```yaml", example(component).rstrip(), "```", ""]


def _cell(text: str, *, code: bool) -> str:
    escaped = text.replace("|", "\\|").replace("\n", "\\n")
    return f"`{escaped}`" if code and text else escaped


def _shapes(component: Component) -> str:
    """The first line of the method that does the part's work."""
    method = getattr(component.load(), _METHODS.get(component.kind, ""), None)
    text = inspect.cleandoc(method.__doc__ or "") if method is not None else ""
    line = " ".join(text.split("\n\n")[0].split())
    return line if "(" in line else ""


def _type_name(annotation: Any) -> str:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(repr(a) for a in arguments)
    if typing.get_origin(annotation) is typing.Annotated:
        return _type_name(arguments[0])
    if type(None) in arguments:
        return " | ".join(_type_name(a) for a in arguments)
    if annotation is type(None):
        return "null"
    if arguments:
        return f"{getattr(typing.get_origin(annotation), '__name__', '')}[{', '.join(map(_type_name, arguments))}]"
    return str(getattr(annotation, "__name__", annotation))
