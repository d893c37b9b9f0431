"""`lensmith plugin …`: for authors of plugins."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from lensmith.cli.output import print_json, print_table
from lensmith_registry import Kind, discover

app = typer.Typer(help="Write a plugin and test it.", no_args_is_help=True, rich_markup_mode=None)

_QUIET = {"DEEPSPEED_LOG_LEVEL": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Nothing is downloaded for a test, and libraries keep quiet about a machine without a GPU."""
_SIGNS = {"pass": "ok", "fail": "FAIL", "not applicable": "-"}


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the part, as a spec file will say it, e.g. tiny_vit.")],
    kind: Annotated[Kind, typer.Option("--kind", "-k", help="What the part is.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new folder; by default lensmith-NAME.")
    ] = None,
) -> None:
    """Write a complete package with one part that works: entry point, spec, implementation, tests, README, CI."""
    from shlex import quote

    from lensmith.scaffold import new_package, package_names

    names = package_names(name, kind, discover())
    folder = new_package(names, output or Path(names.distribution))
    print(f"{folder} holds the package {names.distribution} with the {kind.value.replace('_', ' ')} {name!r}. Next:\n")
    local = folder if folder.is_absolute() else f"./{folder}"  # pip would look for a bare name in the index
    print(f"    pip install --editable {quote(f'{local}[test]')}")
    print(f"    lensmith show {kind} {name}")
    print(f"    lensmith plugin test {name}")


@app.command("test")
def conformance(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="PACKAGE|NAME",
            help="A package, or one part by its name; by default every package beside Lensmith's own parts.",
        ),
    ] = None,
    checks: Annotated[
        list[str] | None, typer.Option("--check", "-c", help="Run this check alone; repeat for several.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold parts against what their interfaces promise, at their smallest, on the CPU; exit code 1 where one fails.

    `lensmith plugin test lensmith` tests the built-in parts.
    """
    from lensmith.testing.kit import Kit

    chosen = Kit(target, checks or ())
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    started = time.monotonic()
    with chosen as kit:
        findings = list(kit.findings())
    failures = [finding for finding in findings if finding.outcome == "fail"]
    if as_json:
        print_json(
            [
                {
                    "kind": f.component.kind.value,
                    "name": f.component.name,
                    "distribution": f.component.distribution,
                    "version": f.component.version,
                    "check": f.check,
                    "outcome": f.outcome,
                    "promise": f.promise,
                    "seen": f.seen,
                }
                for f in findings
            ]
        )
    else:
        signs = {(f.component, f.check): _SIGNS[f.outcome] for f in findings}
        rows = [(c.kind.value, c.name, *(signs[c, check.name] for check in kit.checks)) for c in kit.components]
        print_table(("KIND", "NAME", *(check.name for check in kit.checks)), rows)
        print("\n" + "\n".join(f"{check.name:9}  {check.about}" for check in kit.checks))
        for failure in failures:
            print(f"\n{failure}")
        parts = len({f.component for f in failures})
        verdict = f"{len(failures)} checks failed, in {parts} parts" if failures else "every promise is kept"
        print(f"\n{len(kit.components)} parts, {time.monotonic() - started:.0f} s: {verdict}")
    if failures:
        raise typer.Exit(1)
