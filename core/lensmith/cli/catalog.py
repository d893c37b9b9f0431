"""`lensmith list`, `show`, `plugins`: what is installed. No torch."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer

from lensmith.catalog import example, field_rows, page, summary
from lensmith.cli.output import print_json, print_table
from lensmith.errors import LensmithError, Problem, SpecError
from lensmith_registry import DuplicateComponentError, Kind, Plugin, Registry, discover

KindOption = Annotated[Kind | None, typer.Option("--kind", "-k", help="Only parts of this kind.")]
KindArgument = Annotated[str | None, typer.Argument(metavar="[KIND]", help="The same, e.g. connector or connectors.")]
_RECIPE = "recipe"
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_parts(of: KindArgument = None, kind: KindOption = None, as_json: JsonOption = False) -> None:
    """List the parts that a spec can name, ours and those of installed plugins."""
    kind = kind if of is None else kind_of(of)
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
                    **({"deprecated": c.deprecated} if c.deprecated else {}),
                }
                for c in components
            ]
        )
    else:
        rows = [(c.kind.value, c.name, summary(c), f"{c.distribution} {c.version}") for c in components]
        print_table(("KIND", "NAME", "SUMMARY", "FROM"), rows)
    for conflict in registry.conflicts():
        print(f"warning: {conflict}", file=sys.stderr)
    for plugin in registry.plugins:
        if plugin.slow:
            print(f"warning: {plugin.slow}", file=sys.stderr)
    for plugin in registry.failures:
        print(
            f"warning: {plugin.distribution} {plugin.version} failed: {plugin.error} (see `lensmith plugins`)",
            file=sys.stderr,
        )


def kind_of(text: str) -> Kind:
    """A kind as people write it: `connectors`, `vision-encoder`.

    Raises:
        SpecError: there is no such kind.
    """
    plain = text.strip().lower().replace("-", "_").replace(" ", "_")
    for kind in Kind:
        if plain in (kind.value, f"{kind.value}s"):
            return kind
    close = difflib.get_close_matches(plain, [kind.value for kind in Kind], n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise SpecError(
        [Problem("KIND", f"{text!r} is no kind of part.{hint} Kinds: {', '.join(kind.value for kind in Kind)}.")]
    )


def show(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help=f"Kind of the part: {', '.join(kind.value for kind in Kind)}; or recipe.",
            autocompletion=lambda: [*(kind.value for kind in Kind), _RECIPE],
        ),
    ],
    name: Annotated[str, typer.Argument(help="Its exact name, see `lensmith list` and `lensmith recipes`.")],
    as_json: JsonOption = False,
) -> None:
    """Show one part: what it is, where it comes from, the fields that a spec may set; or a recipe as it is shipped."""
    if kind == _RECIPE:
        from lensmith.cli.recipes import show_recipe

        show_recipe(name, as_json=as_json)
        return
    registry = discover()
    component = registry.get(_kind(kind), name)
    if as_json:
        from lensmith.spec.build import part_class

        print_json(
            {
                "kind": component.kind.value,
                "name": component.name,
                "summary": component.summary,
                "paper": component.paper,
                "example": component.example,
                "distribution": component.distribution,
                "version": component.version,
                "deprecated": component.deprecated or None,
                "schema": part_class(component.kind, name, registry).model_json_schema(),
            }
        )
        return
    spec = component.spec
    print(f"{component.kind.value} {component.name}: {component.summary}")
    print(f"from {component.distribution} {component.version}\n")
    if component.deprecated:
        print(f"Deprecated: {component.deprecated}\n")
    if spec.__doc__:
        print(f"{spec.__doc__.strip()}\n")
    if component.paper:
        print(f"Source: {component.paper}\n")
    rows = field_rows(spec)
    if rows:
        print_table(("FIELD", "TYPE", "DEFAULT", "MEANING"), rows)
    else:
        print("It has no fields.")
    print(f"\nIn a spec:\n{example(component).rstrip()}")


def _kind(text: str) -> Kind:
    """Raises:
    LensmithError: it is neither a kind nor `recipe`.
    """
    try:
        return kind_of(text)
    except SpecError:
        names = [*(kind.value for kind in Kind), _RECIPE]
        close = difflib.get_close_matches(text, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise LensmithError(f"{text!r} is not one of {', '.join(names)}.{hint}") from None


def plugins(as_json: JsonOption = False) -> None:
    """Show every installed plugin, working, failing or disabled, with the reason of a failure.

    LENSMITH_DISABLE_PLUGINS=NAME,... leaves plugins out, LENSMITH_TRACE_PLUGINS=1 prints every call of a hook.
    """
    registry = discover().imported()
    if as_json:
        print_json(
            [
                {
                    "name": p.name,
                    "distribution": p.distribution,
                    "version": p.version,
                    "module": p.module,
                    "components": [str(c) for c in p.components],
                    "disabled": p.disabled,
                    "seconds": round(p.seconds, 4),
                    "imports": list(p.heavy),
                    "error": p.error or None,
                    "remedy": p.remedy or None,
                    "details": p.details or None,
                }
                for p in registry.plugins
            ]
        )
        return
    rows = [
        (
            p.name,
            f"{p.distribution} {p.version}",
            _state(p, registry),
            str(len(p.components)),
            f"{1000 * p.seconds:.0f} ms",
        )
        for p in registry.plugins
    ]
    print_table(("PLUGIN", "FROM", "STATE", "PARTS", "IMPORT"), rows)
    for conflict in registry.conflicts():
        print(f"\nconflict: {conflict}")
    for plugin in registry.plugins:
        if plugin.slow:
            print(f"\nslow: {plugin.slow}")
    for plugin in registry.failures:
        print(f"\n{plugin.name} of {plugin.distribution} {plugin.version} failed: {plugin.error}")
        print(f"What to do: {plugin.remedy}\n\n{plugin.details.rstrip()}")


def _state(plugin: Plugin, registry: Registry) -> str:
    if plugin.error:
        return "FAILED"
    if plugin.disabled:
        return "disabled"
    try:
        return "ok" if all(registry.placed(c).name == c.name for c in plugin.components) else "renamed"
    except DuplicateComponentError:
        return "conflict"


def docs(
    folder: Annotated[Path, typer.Argument(help="Folder of the pages, one a kind; made where it is not there.")],
    distribution: Annotated[
        str | None, typer.Option("--distribution", "-d", help="Only parts of this package, e.g. your own.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 where a page is out of date.")] = False,
) -> None:
    """Write a Markdown page for each kind of part: fields, shapes, source paper and an example of each."""
    registry = discover()
    stale = []
    for kind in Kind:
        parts = [c for c in registry.components(kind) if distribution in (None, c.distribution)]
        if not parts:
            continue
        target = folder / f"{kind.value}s.md"
        text = page(kind, parts)
        if target.is_file() and target.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(target))
        if not check:
            folder.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"out of date: {', '.join(stale)}; run `lensmith docs {folder}`", file=sys.stderr)
        raise typer.Exit(1)
    print(f"{len(stale)} pages written" if stale else "all pages are up to date")
