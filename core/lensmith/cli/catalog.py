"""`lensmith list`, `show`, `plugins`: what is installed. No torch."""

from __future__ import annotations

import sys
import typing
from typing import Annotated, Any

import typer

from lensmith.cli.output import print_json, print_table
from lensmith_registry import Kind, PartSpec, discover

KindOption = Annotated[Kind | None, typer.Option("--kind", "-k", help="Only parts of this kind.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_parts(kind: KindOption = None, as_json: JsonOption = False) -> None:
    """List the parts that a spec can name, ours and those of installed plugins."""
    registry = discover()
    components = list(registry.components(kind))
    if as_json:
        print_json(
            [
                {
                    "kind": c.kind.value,
                    "name": c.name,
                    "summary": c.summary,
                    "distribution": c.distribution,
                    "version": c.version,
                }
                for c in components
            ]
        )
    else:
        rows = [(c.kind.value, c.name, c.summary, f"{c.distribution} {c.version}") for c in components]
        print_table(("KIND", "NAME", "SUMMARY", "FROM"), rows)
    for conflict in registry.conflicts():
        print(f"warning: {conflict}", file=sys.stderr)
    for plugin in registry.failures:
        print(
            f"warning: {plugin.distribution} {plugin.version} failed: {plugin.error} (see `lensmith plugins`)",
            file=sys.stderr,
        )


def show(
    kind: Annotated[Kind, typer.Argument(help="Kind of the part, e.g. connector.")],
    name: Annotated[str, typer.Argument(help="Its exact name, see `lensmith list`.")],
    as_json: JsonOption = False,
) -> None:
    """Show one part: what it is, where it comes from, and the fields that a spec may set."""
    registry = discover()
    component = registry.get(kind, name)
    if as_json:
        from lensmith.spec.build import part_class

        print_json(
            {
                "kind": component.kind.value,
                "name": component.name,
                "summary": component.summary,
                "distribution": component.distribution,
                "version": component.version,
                "schema": part_class(kind, name, registry).model_json_schema(),
            }
        )
        return
    spec = component.spec
    print(f"{component.kind.value} {component.name}: {component.summary}")
    print(f"from {component.distribution} {component.version}\n")
    if spec.__doc__:
        print(f"{spec.__doc__.strip()}\n")
    rows = _fields(spec)
    if rows:
        print_table(("FIELD", "TYPE", "DEFAULT", "MEANING"), rows)
    else:
        print("It has no fields.")
    print(f"\nIn a spec:  {component.kind.value}: {{name: {component.name}}}")


def plugins(as_json: JsonOption = False) -> None:
    """Show every installed plugin, working or not, with the reason of a failure."""
    registry = discover()
    if as_json:
        print_json(
            [
                {
                    "name": p.name,
                    "distribution": p.distribution,
                    "version": p.version,
                    "module": p.module,
                    "components": [str(c) for c in p.components],
                    "error": p.error or None,
                    "details": p.details or None,
                }
                for p in registry.plugins
            ]
        )
        return
    rows = [
        (p.name, f"{p.distribution} {p.version}", "FAILED" if p.error else "ok", str(len(p.components)))
        for p in registry.plugins
    ]
    print_table(("PLUGIN", "FROM", "STATE", "PARTS"), rows)
    for conflict in registry.conflicts():
        print(f"\nconflict: {conflict}")
    for plugin in registry.failures:
        print(f"\n{plugin.name} of {plugin.distribution} {plugin.version} failed: {plugin.error}\n{plugin.details}")


def _fields(spec: type[PartSpec]) -> list[tuple[str, str, str, str]]:
    rows = []
    descriptions = spec.field_descriptions()
    for name, field in spec.model_fields.items():
        if name == "name":
            continue
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        description = " ".join(descriptions.get(name, "").split())
        rows.append((name, _type_name(field.annotation), default, description))
    return rows


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
