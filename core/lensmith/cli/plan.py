"""`lensmith plan`: what a spec will build and cost. No torch, unless a part has no closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lensmith.cli.catalog import JsonOption
from lensmith.cli.output import human_bytes, print_json, print_table
from lensmith.cli.specs import OverridesArgument, SpecArgument
from lensmith.errors import Problem, SpecError

if TYPE_CHECKING:
    from lensmith.planning.budget import Budget
    from lensmith.planning.plan import Plan


def plan(
    spec: SpecArgument,
    overrides: OverridesArgument = None,
    hardware: Annotated[
        str | None, typer.Option(metavar="GPU [x N]", help="Also what it costs on these, e.g. 'a100-80g x 8'.")
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(metavar="[STAGE=]N", help="Rows of every stage, or of one; by default counted in its files."),
    ] = None,
    text: Annotated[int, typer.Option(min=1, max=2**26, help="Text positions of a row, for the cost.")] = 256,
    utilisation: Annotated[
        float | None, typer.Option(min=0.01, max=1.0, help="Share of its FLOPs that a GPU reaches. [default: 0.4]")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0.0, help="Of a GPU hour, in your currency.")] = None,
    tflops: Annotated[float | None, typer.Option(min=0.001, help="Dense 16-bit TFLOP/s of the GPU.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(min=0.001, help="Memory of the GPU in GB.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a spec will build: dimensions, tokens per image, parameters, what trains, memory per ZeRO stage.

    With --hardware also the FLOPs, hours and price of each stage, and the ZeRO stages that fit.
    """
    from lensmith.planning import plan as make

    overrides = list(overrides or ())
    _require_finite({"--utilisation": utilisation, "--price": price, "--tflops": tflops, "--gpu-memory": gpu_memory})
    if hardware is not None and len(overrides) >= 2 and overrides[0].lower() == "x" and overrides[1].isdigit():
        hardware = f"{hardware} x {overrides[1]}"  # --hardware a100-80g x 8, without quotes
        del overrides[:2]
    told = {"--rows": rows, "--utilisation": utilisation, "--price": price, "--tflops": tflops}
    told |= {"--gpu-memory": gpu_memory}
    if hardware is None and (idle := [flag for flag, value in told.items() if value]):
        raise SpecError([Problem(", ".join(idle), "is about costs; say --hardware GPU too")])
    costed = None
    if hardware is not None:
        from lensmith.planning.budget import budget
        from lensmith.planning.hardware import parse_hardware
        from lensmith.spec.build import load_spec

        gpu, count = parse_hardware(
            hardware,
            flops=tflops * 1e12 if tflops else None,
            memory=gpu_memory * 1e9 if gpu_memory else None,
            price=price,
            utilisation=utilisation,
        )
        loaded = load_spec(spec, overrides)
        planned = make(loaded, world=count)
        costed = budget(planned, loaded, gpu, count, rows=_rows(rows or (), list(loaded.stages)), text=text)
    else:
        planned = make(spec, overrides=overrides)
    if as_json:
        print_json(planned.as_dict() | ({"cost": costed.as_dict()} if costed else {}))
        return
    _print_plan(planned)
    if costed:
        _print_budget(costed)


def _label(zero: int, own: int) -> str:
    return f"ZeRO-{zero}{' (this spec)' if zero == own else ''}"


def _gpus(count: int) -> str:
    return f"{count:,} GPU{'s' * (count != 1)}"


def _print_plan(planned: Plan) -> None:
    from lensmith.planning.plan import TYPICAL_TEXT

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
            (f"bytes a GPU, {_gpus(planned.world)}, {stage.precision}", "weights", "gradients", "optimizer", "total"),
            [
                (
                    _label(zero, stage.zero),
                    *map(human_bytes, (m.weights, m.gradients, m.optimizer, m.total)),
                )
                for zero, m in stage.memory.items()
            ],
        )


def _print_budget(costed: Budget) -> None:
    gpu = costed.hardware
    price = "" if gpu.price is None else f", {gpu.price:g} a GPU hour"
    print(
        f"\non {costed.count} x {gpu.name}: {gpu.flops / 1e12:g} TFLOP/s each, of which {100 * gpu.utilisation:g} % are"
        f" used (--utilisation){price}; {costed.positions} positions a row (--text)"
    )
    table = []
    for stage in costed.stages:
        shown = "each" if stage.rows is None else f"{stage.rows:,}"
        hours = [f"{stage.gpu_hours:.3g}", f"{stage.hours:.3g}"]
        money = "-" if stage.price is None else f"{stage.price:,.2f}"
        table.append((stage.name, shown, f"{stage.flops:.3g}", *hours, money))
    print_table(("STAGE", "ROWS", "FLOP", "GPU HOURS", "HOURS", "PRICE"), table)
    if any(stage.rows is None for stage in costed.stages):
        print("`each`: of one row, for the files of rows are not here; --rows says how many there are")
    print()
    for stage in costed.stages:
        print(f"does stage {stage.name} fit? {stage.verdict.told(costed.count)}")
    print()
    table = []
    for stage in costed.stages:
        for zero, need in stage.memory.items():
            said = f"{need.fitting:,}" if need.fitting else "none fits"
            sizes = [f"{size / 1e9:.1f} GB" for size in (need.model, need.row)]
            cure = "lower batch.micro" if need.fitting else "more GPUs, a higher ZeRO stage or offloading"
            table.append(
                (stage.name, _label(zero, stage.verdict.zero), *sizes, said, "yes" if need.enough else f"no: {cure}")
            )
    print_table(("STAGE", "", "MODEL", "A ROW", "ROWS AT ONCE", "ENOUGH FOR THE STAGE"), table)


def _require_finite(given: dict[str, float | None]) -> None:
    """What typer's bounds let through: inf and nan, and numbers of no machine."""
    for option, value in given.items():
        if value is not None and not value < 1e9:
            raise SpecError([Problem(option, f"should be a number below a billion; it is {value}")])


def _rows(given: Sequence[str], stages: Sequence[str]) -> dict[str, int]:
    """Rows by stage; a number alone is of every stage."""
    rows: dict[str, int] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        if not number.isdecimal() or len(number) > 15 or int(number) < 1 or (name and name not in stages):
            known = ", ".join(stages) or "none"
            raise SpecError(
                [
                    Problem(
                        "--rows", f"should be a number, or STAGE=N with a stage of the spec ({known}); it is {text!r}"
                    )
                ]
            )
        rows |= {name: int(number)} if name else dict.fromkeys(stages, int(number))
    return rows
