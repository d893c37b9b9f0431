"""`lensmith compare`: two results of the same questions."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lensmith.cli.catalog import JsonOption
from lensmith.cli.output import print_json, print_table


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="FIRST", help="Results of `lensmith eval`, or a file of `score --samples`.")
    ],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="The same of another model or setting.")],
    resamples: Annotated[int, typer.Option(min=0, help="Of the bootstrap; 0 for no intervals.")] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Compare two results question by question: the difference, its interval, and who answers what better."""
    from lensmith.evaluation.comparing import compare as compared

    found = compared(first, second, resamples=resamples)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    rows = [
        (
            each.title,
            str(each.questions),
            f"{each.first:.2f}",
            f"{each.second:.2f}",
            f"{each.difference:+.2f}",
            "" if each.low is None or each.high is None else f"{each.low:+.2f} to {each.high:+.2f}",
            f"{each.gained} / {each.lost}",
            f"{each.p:.3g}",
        )
        for each in found
    ]
    print_table(
        ("BENCHMARK", "QUESTIONS", "FIRST", "SECOND", "DIFFERENCE", "95 % INTERVAL", "BETTER / WORSE", "P"), rows
    )
    print(
        "\nMeans of the scores of single answers, in percent; intervals are over questions, each with both answers; P"
        " is the exact sign test's."
    )
    for each in found:
        for note in each.notes:
            print(f"note: {each.title}: {note}", file=sys.stderr)
