"""`lensmith lock`: write down what a spec is made of. No torch."""

from __future__ import annotations

import typer

from lensmith.cli.specs import OverridesArgument, SpecArgument


def lock(spec: SpecArgument, overrides: OverridesArgument = None) -> None:
    """Write SPEC.lock: the distributions, versions and hashes that the spec stands on, and the resolved spec.

    `lensmith check SPEC --locked` and `lensmith train SPEC --locked` refuse whatever differs from it.
    """
    from lensmith.locking import write_lock

    try:
        target, data = write_lock(spec, overrides or ())
    except OSError as error:
        typer.echo(f"error: the lock cannot be written: {error}", err=True)
        raise typer.Exit(2) from None
    print(f"{target}: {len(data['distributions'])} distributions, spec {data['spec']['sha256'][:12]}")
