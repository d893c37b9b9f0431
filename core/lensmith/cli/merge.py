"""`lensmith merge`: fold adapters into weights."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from lensmith.errors import Problem, SpecError


class Precision(enum.StrEnum):
    """Types that weights can be merged in."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def merge(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder that a stage wrote, or a checkpoint.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OUTPUT] [KEY=VALUE]...",
            help="Folder of the merged artifact, as --output; where a base has moved: language_model.checkpoint=PATH",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the merged artifact.")] = None,
    dtype: Annotated[
        Precision | None, typer.Option("--dtype", help="Type of the merged weights; by default the stage's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the questions that are compared.")] = 0,
) -> None:
    """Write an artifact without adapters, after comparing its logits with the original's; else write nothing."""
    overrides = list(words or ())
    if overrides and (output is None or "=" not in overrides[0]):
        first = Path(overrides.pop(0))
        if output is not None:
            raise SpecError([Problem("--output", f"two folders are named, {first} and {output}; give one")])
        output = first
    if output is None:
        raise SpecError(
            [Problem("--output", "say where the merged artifact goes: lensmith merge ARTIFACT --output FOLDER")]
        )
    import torch

    from lensmith import merging

    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    done = merging.merge(artifact, output, dtype=types[dtype.value] if dtype else None, overrides=overrides, seed=seed)
    print(done.folder)
    print(
        f"logits moved by {done.difference:.2e} of the largest at {done.positions} positions"
        f" (tolerance in {done.dtype}: {done.tolerance:.0e}); holds {', '.join(done.parts)} in full"
    )
