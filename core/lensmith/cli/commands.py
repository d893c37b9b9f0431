"""All commands in one table. Each module beside this one holds a few, and is imported only for one of them."""

from __future__ import annotations

import gc
from importlib import import_module
from typing import Annotated

import typer

COMMANDS = {
    "list": "catalog:list_parts",
    "show": "catalog:show",
    "recipes": "recipes:recipes",
    "plugins": "catalog:plugins",
    "doctor": "doctor:doctor",
    "docs": "catalog:docs",
    "check": "specs:check",
    "lock": "lock:lock",
    "schema": "specs:schema",
    "migrate": "migrate:migrate",
    "plan": "plan:plan",
    "train": "training:train",
    "plot": "plot:plot",
    "generate": "use:generate",
    "serve": "serve:serve",
    "eval": "evaluation_run:evaluate",
    "score": "evaluation:score",
    "compare": "compare:compare",
    "merge": "merge:merge",
    "ablate": "ablate:ablate",
    "import": "conversion:import_",
    "export": "conversion:export",
    "push": "conversion:push",
    "data": "data:app",
    "plugin": "plugin:app",
    "cache": "cache:app",
}
"""Name on the command line, and `module:function` below `lensmith.cli`; `module:app` for a group of commands."""

_SHORT = {"list", "show", "recipes", "plugins", "check", "schema"}
"""Commands that end before the memory that they leave behind matters: they run without the search for cycles."""


def build(only: str | None = None) -> typer.Typer:
    """The command line.

    Args:
        only: leave out every command but this one, if there is such a one: the others cost time to no purpose.
    """
    app = typer.Typer(
        name="lensmith",
        callback=_begin,
        help="Compose, train, evaluate and ship large multimodal models (pictures in, text out).\n\n"
        "A spec file names a vision encoder, an image splitter, a connector, a language model and, for each training"
        " stage, a tuner. Start with `lensmith list`, `lensmith check SPEC`, `lensmith plan SPEC`, `lensmith train"
        " SPEC`. `lensmith --install-completion` completes commands and options in your shell.",
        no_args_is_help=True,
        add_completion=only not in COMMANDS,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in [only] if only in COMMANDS else COMMANDS:
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(import_module(f"lensmith.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"lensmith {version('lensmith')}")
        raise typer.Exit


def _begin(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand not in _SHORT:
        gc.enable()
