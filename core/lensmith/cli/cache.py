"""`lensmith cache`: the features that training keeps, their size, and how to be rid of them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from lensmith.cli.catalog import JsonOption
from lensmith.cli.output import print_json, print_table
from lensmith.files import size as bytes_of

app = typer.Typer(help="Features that training keeps (`cache: features`): what they take, and clearing them.")
FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="The cache's folder; by default that of specs without cache.folder.")
]


@app.callback(invoke_without_command=True)
def size(context: typer.Context) -> None:
    """Say where the cache is and what it takes; `list` and `clear` below say and do more."""
    if context.invoked_subcommand is None:
        from lensmith.features.folders import default_folder, held

        print(f"{default_folder()}: {bytes_of(held(default_folder()))}")


@app.command("list")
def list_features(folder: FolderOption = None, as_json: JsonOption = False) -> None:
    """List the encoders that have features, the one that was used last first."""
    from lensmith.features.folders import cached, default_folder

    root = folder or default_folder()
    entries = cached(root)
    if as_json:
        shown = [
            {
                "id": entry.folder.name,
                "folder": str(entry.folder),
                "bytes": entry.size,
                "pictures": entry.pictures,
                "idle_days": round(entry.idle_days, 3),
                "about": entry.about,
            }
            for entry in entries
        ]
        print_json(shown)
        return
    if not entries:
        print(f"{root}: no features", file=sys.stderr)
        return
    header = ["id", "size", "pictures", "last used", "encoder", "splitter", "type"]
    rows = [
        [
            entry.folder.name,
            bytes_of(entry.size),
            f"{entry.pictures:,}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)),
            entry.encoder,
            str(entry.about["splitter"].get("name", "?")),
            f"{entry.about['dtype']} {entry.about['tokens']} x {entry.about['width']}",
        ]
        for entry in entries
    ]
    print_table(header, rows)
    print(f"{root}: {bytes_of(sum(entry.size for entry in entries))}")


@app.command("clear")
def clear_features(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `list` shows them.")] = None,
    unused: Annotated[
        float | None, typer.Option("--unused", min=0, metavar="DAYS", help="Not used for so long.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    folder: FolderOption = None,
) -> None:
    """Delete features: some by their id, those that were not used for some days, or all. Never those in use."""
    from lensmith.errors import LensmithError
    from lensmith.features.folders import cached, clear, default_folder

    if (bool(ids) + everything + (unused is not None)) != 1:
        raise LensmithError("say what to clear: IDs as `lensmith cache list` shows them, --unused DAYS, or --all")
    root = folder or default_folder()
    entries = cached(root)
    names = [entry.folder.name for entry in entries]
    if unknown := [name for name in ids or () if name not in names]:
        raise LensmithError(f"{root} has no features {', '.join(unknown)}; it has {', '.join(names) or 'none'}")
    freed, failures = 0, []
    for entry in entries:
        if everything or entry.folder.name in (ids or ()) or (unused is not None and entry.idle_days >= unused):
            try:
                freed += clear(entry)
            except LensmithError as error:
                failures.append(str(error))
    print(f"{bytes_of(freed)} cleared")
    if failures:
        raise LensmithError("; ".join(failures))
