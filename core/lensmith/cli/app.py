"""All commands in one place; each module below holds a few."""

from __future__ import annotations

import typer

from lensmith.cli import catalog, data, merge, plot, specs, training, use

app = typer.Typer(
    name="lensmith",
    help="Compose, train, evaluate and ship large multimodal models (pictures in, text out).\n\n"
    "A spec file names a vision encoder, an image splitter, a connector, a language model and, for each training"
    " stage, a tuner. Start with `lensmith list`, `lensmith check SPEC`, `lensmith plan SPEC`, `lensmith train SPEC`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(catalog.list_parts)
app.command("show")(catalog.show)
app.command("plugins")(catalog.plugins)
app.command("docs")(catalog.docs)
app.command("check")(specs.check)
app.command("schema")(specs.schema)
app.command("plan")(specs.plan)
app.command("train")(training.train)
app.command("plot")(plot.plot)
app.command("generate")(use.generate)
app.command("merge")(merge.merge)
app.add_typer(data.app, name="data")
