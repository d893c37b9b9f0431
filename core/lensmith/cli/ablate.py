"""`lensmith ablate`: train, score and compare the variants of a study."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lensmith.errors import LensmithError, Problem, SpecError

if TYPE_CHECKING:
    from lensmith.ablation.executors import Executor


def ablate(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Study file: YAML, JSON or TOML.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the study; by default runs/ and the file's name.")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="One of the study's own forms.")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Print the runs, what is shared and what it costs.")] = False,
    only_report: Annotated[bool, typer.Option("--report", help="Only write the report of what is there.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Commands at once.")] = 1,
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", help="Devices with commas, one command on each; 0-3,4-7 are two groups of four."),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", metavar="KEY=VALUE", help="Submit to SLURM, e.g. slurm_partition=gpu gpus_per_node=8."),
    ] = None,
) -> None:
    """Train, score and compare the variants of a study. Start it again to go on where it stopped.

    Every variant is checked first, and all that is wrong is told by variant. What variants share is trained once.
    Tables and figures are in OUTPUT/report.
    """
    from lensmith.ablation.engine import failure_text, overview, prepare, report
    from lensmith.ablation.results import report_path
    from lensmith.ablation.scheduling import run_units

    target = output or Path("runs") / study.stem
    prepared = prepare(study, target, preset, runnable=not only_report, rows_may_come=dry)
    if dry:
        for line in overview(prepared):
            print(line)
        return
    failures = []
    if not only_report:
        signal.signal(signal.SIGTERM, _stop)
        executor = _executor(target, jobs, gpus, slurm or [])
        failures = run_units(prepared.work.units(), executor, lambda line: print(line, file=sys.stderr, flush=True))
    report(prepared)
    print(report_path(target) / "report.md")
    if failures:
        raise LensmithError(failure_text(failures, target))


def _stop(number: int, _: object) -> None:
    raise KeyboardInterrupt


def _group(text: str) -> str:
    """`4-7` as `4,5,6,7`; other names of devices as they are."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdigit() and last.isdigit()):
        return text
    if int(last) < int(first):
        raise SpecError([Problem("--gpus", f"{text!r} ends before it begins")])
    return ",".join(map(str, range(int(first), int(last) + 1)))


def _executor(target: Path, jobs: int, gpus: str | None, slurm: list[str]) -> Executor:
    from lensmith.ablation.executors import Local, Slurm
    from lensmith.spec.yaml import parse_scalar

    if not slurm:
        return Local(jobs, [_group(gpu.strip()) for gpu in gpus.split(",") if gpu.strip()] if gpus else ())
    if gpus:
        raise SpecError([Problem("--gpus", "is of this machine; with --slurm say gpus_per_node=N")])
    options: dict[str, Any] = {}
    for text in slurm:
        name, separator, value = text.partition("=")
        if not separator:
            raise SpecError([Problem("--slurm", f"reads KEY=VALUE; it is {text!r}")])
        options[name] = parse_scalar(value)
    cluster = options.pop("cluster", None)
    return Slurm(target / "slurm", jobs, options, cluster)
