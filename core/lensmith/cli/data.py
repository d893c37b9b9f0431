"""`lensmith data check` and `data preview`: rows before they train anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from lensmith.cli.catalog import JsonOption
from lensmith.cli.output import print_json
from lensmith.cli.specs import OverridesArgument, SpecArgument

app = typer.Typer(help="Verify and look at training rows.", no_args_is_help=True)
StageOption = Annotated[str | None, typer.Option("--stage", help="Only this stage.")]


@app.command("check")
def check_data(
    spec: SpecArgument,
    overrides: OverridesArgument = None,
    stage: StageOption = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Processes; by default one a core.")] = None,
    pictures: Annotated[bool, typer.Option(help="Also decode every picture.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Verify every row and picture of a spec's stages; exit code 2 where one cannot be used."""
    from lensmith.data.check import check_stage
    from lensmith.data.grouping import grouped, told
    from lensmith.parts import stage_of
    from lensmith.spec.build import load_spec

    loaded = load_spec(spec, overrides or ())
    names = [stage] if stage else list(loaded.stages)
    reports = {}
    for name in names:
        report = check_stage(loaded, stage_of(loaded, name), name=name, jobs=jobs, pictures=pictures)
        reports[name] = report
        if not as_json:
            print(report.summary(name))
            for note in told(report.notes, 10):
                print(f"  note: {note}")
            for problem in told(report.problems):
                print(f"  {problem}", file=sys.stderr)
            if len(report.problems) > len(grouped(report.problems)):
                print("  (--json lists them all)", file=sys.stderr)
    if as_json:
        print_json({name: report.as_dict() for name, report in reports.items()})
    raise typer.Exit(2 if any(report.problems for report in reports.values()) else 0)


@app.command("preview")
def preview_data(
    spec: SpecArgument,
    overrides: OverridesArgument = None,
    stage: StageOption = None,
    rows: Annotated[Path | None, typer.Option("--rows", help="Preview this file's rows instead.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="So many rows; else 5, --json all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what rows become: the prompt, with what is supervised marked."""
    from rich.text import Text

    from lensmith.data.preview import preview
    from lensmith.io.terminal import console, encodes_unicode, visible
    from lensmith.parts import stage_of
    from lensmith.spec.build import load_spec

    loaded = load_spec(spec, overrides or ())
    screen = console(stderr=False)
    shown = limit if limit is not None else (None if as_json else 5)
    for entry in preview(loaded, stage_of(loaded, stage), rows=rows, limit=shown):
        if as_json:
            print(json.dumps(entry.as_dict(), ensure_ascii=not encodes_unicode()))
            continue
        screen.rule(Text(visible(f"{entry.id}  {entry.status}")), align="left")
        if entry.reason:
            screen.print(Text(visible(entry.reason)), soft_wrap=True)
        text = Text()
        for piece, supervised in entry.pieces:
            text.append(visible(piece), style="bold green underline" if supervised else "dim")
        screen.print(text, soft_wrap=True)
