"""`lensmith check` and `schema`: a spec before it runs. No torch, unless a part has no closed form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lensmith.cli.catalog import JsonOption
from lensmith.cli.output import print_json
from lensmith.errors import Problem, SpecError

SpecArgument = Annotated[
    Path, typer.Argument(metavar="SPEC", help="Spec file (YAML, JSON or TOML), or a shipped recipe.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Dotted overrides, e.g. model.connector.depth=3 stages.tune.lr=1e-4"),
]


LockedOption = Annotated[
    bool, typer.Option("--locked", help="Refuse whatever differs from the lock beside the spec (`lensmith lock`).")
]


def check(
    spec: SpecArgument,
    overrides: OverridesArgument = None,
    locked: LockedOption = False,
    as_json: JsonOption = False,
    exporters: Annotated[
        list[str] | None, typer.Option("--for", help="Also whether it can be exported so, e.g. hf; repeat for several.")
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the whole spec: what it extends, overrides and defaults included.")
    ] = False,
) -> None:
    """Check a spec: fields, parts, dimensions, files. Every mistake is listed; exit code 2 where there is one."""
    from lensmith.spec.build import dump, installed, load_spec
    from lensmith.spec.check import checked
    from lensmith.spec.deprecations import deprecations

    problems: list[Problem] = []
    warnings: list[Problem] = []
    whole: dict[str, Any] | None = None
    try:
        if resolved:
            whole = dump(load_spec(spec, overrides or ()))
        warnings = deprecations(checked(spec, overrides or ()), installed())
        if locked:
            from lensmith.locking import require_locked

            require_locked(spec, overrides or ())
        if exporters:
            from lensmith.conversion.exporting import require_exportable

            require_exportable(spec, overrides or (), exporters)
    except SpecError as error:
        problems = error.problems
    for warning in warnings if not as_json else ():
        print(f"warning: {warning}", file=sys.stderr)
    if as_json:
        told = [
            [{"path": p.path, "message": p.message, "place": p.place or None} for p in said]
            for said in (problems, warnings)
        ]
        found = {"ok": not problems, "problems": told[0], "warnings": told[1]}
        print_json({**found, "spec": whole} if resolved else found)
        raise typer.Exit(2 if problems else 0)
    if whole is not None:
        import yaml

        print(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=110).rstrip())
    if problems:
        print("\n".join(str(problem) for problem in problems), file=sys.stderr)
        print(f"{len(problems)} problem{'s' * (len(problems) != 1)} in {spec}", file=sys.stderr)
    else:
        print(f"{spec} is valid", file=sys.stderr if resolved else sys.stdout)
    raise typer.Exit(2 if problems else 0)


def schema() -> None:
    """Print the JSON Schema of a spec with everything that is installed, for completion in an editor."""
    from lensmith.spec.build import installed
    from lensmith.spec.schema import json_schema

    print_json(json_schema(installed()))
