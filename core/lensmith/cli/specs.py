"""`lensmith check`, `schema`, `plan`: a spec before it runs. No torch, unless a part has no closed form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lensmith.cli.catalog import JsonOption
from lensmith.cli.output import human_bytes, print_json, print_table
from lensmith.errors import Problem, SpecError

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="Spec file: YAML, JSON or TOML.")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, e.g. model.connector.depth=3 stages.tune.lr=1e-4"),
]


def check(spec: SpecArgument, overrides: OverridesArgument = None, as_json: JsonOption = False) -> None:
    """Check a spec: fields, parts, dimensions, files. Every mistake is listed; exit code 2 where there is one."""
    from lensmith.spec.check import checked

    problems: list[Problem] = []
    try:
        checked(spec, overrides or ())
    except SpecError as error:
        problems = error.problems
    if as_json:
        entries = [{"path": p.path, "message": p.message, "place": p.place or None} for p in problems]
        print_json({"ok": not problems, "problems": entries})
    elif problems:
        print("\n".join(str(problem) for problem in problems), file=sys.stderr)
        print(f"{len(problems)} problem{'s' * (len(problems) != 1)} in {spec}", file=sys.stderr)
    else:
        print(f"{spec} is valid")
    raise typer.Exit(2 if problems else 0)


def schema() -> None:
    """Print the JSON Schema of a spec with everything that is installed, for completion in an editor."""
    from lensmith.spec.build import installed
    from lensmith.spec.schema import json_schema

    print_json(json_schema(installed()))


def plan(spec: SpecArgument, overrides: OverridesArgument = None, as_json: JsonOption = False) -> None:
    """Show what a spec will build: dimensions, tokens per image, parameters, what trains, memory per ZeRO stage."""
    from lensmith.planning import plan as make
    from lensmith.planning.plan import TYPICAL_TEXT, WORLD

    planned = make(spec, overrides=overrides or ())
    if as_json:
        print_json(planned.as_dict())
        return
    encoder, connector = planned.dimensions.encoder, planned.dimensions.connector
    language = planned.dimensions.language_model
    rows, columns = encoder.grid
    print(
        f"view {encoder.image_size[1]}x{encoder.image_size[0]} px -> {encoder.tokens} tokens"
        f" ({rows}x{columns}{f' + {encoder.extra_tokens}' if encoder.extra_tokens else ''}) x {encoder.width}"
        f" -> connector {connector.tokens} x {connector.width} -> language model {language.width} wide,"
        f" {language.context_length} positions, vocabulary {language.vocabulary}\n"
    )
    print_table(
        ("PICTURE (W x H)", "VIEWS", "TOKENS"),
        [(f"{p.width} x {p.height}", str(p.views), str(p.tokens)) for p in planned.pictures],
    )
    print()
    parts = [
        (part, f"{size:,}", *(f"{stage.trainable_in(part):,}" for stage in planned.stages))
        for part, size in planned.parameters.items()
    ]
    total = ("total", f"{planned.total_parameters:,}", *(f"{s.trainable_parameters:,}" for s in planned.stages))
    print_table(("PART", "PARAMETERS", *(f"TRAINED IN {stage.name}" for stage in planned.stages)), [*parts, total])
    for stage in planned.stages:
        share = 100 * stage.trainable_parameters / max(1, planned.total_parameters)
        print(
            f"\nstage {stage.name}: trains {stage.trainable_parameters:,} parameters ({share:.2f} %) in"
            f" {len(stage.trainable)} tensors; a row of one picture and {TYPICAL_TEXT} text positions costs"
            f" {stage.flops_per_row / 1e12:.3g} TFLOP"
        )
        print_table(
            (f"bytes a GPU, {WORLD} GPUs, bf16", "weights", "gradients", "optimizer", "total"),
            [
                (f"ZeRO-{zero}", *map(human_bytes, (m.weights, m.gradients, m.optimizer, m.total)))
                for zero, m in stage.memory.items()
            ],
        )
