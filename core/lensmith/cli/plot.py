"""`lensmith plot`: draw what training wrote down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folder of a run; several are compared.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the drawings; by default RUN/plots.")
    ] = None,
) -> None:
    """Draw loss, learning rate and throughput over the steps of all stages, as PNG and SVG."""
    from lensmith.plotting import plot as draw

    for file in draw(runs, output if output is not None else runs[0] / "plots"):
        print(file)
