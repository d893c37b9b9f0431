"""`lensmith merge`: fold adapters into weights."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class Precision(enum.StrEnum):
    """Types that weights can be merged in."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def merge(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder that a stage wrote, or a checkpoint.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder of the merged artifact.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Where a base has moved: language_model.checkpoint=PATH"),
    ] = None,
    dtype: Annotated[
        Precision | None, typer.Option("--dtype", help="Type of the merged weights; by default the stage's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the questions that are compared.")] = 0,
) -> None:
    """Write an artifact without adapters, after comparing its logits with the original's; else write nothing."""
    import torch

    from lensmith import merging

    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    done = merging.merge(
        artifact, output, dtype=types[dtype.value] if dtype else None, overrides=overrides or (), seed=seed
    )
    print(done.folder)
    print(
        f"logits moved by {done.difference:.2e} of the largest at {done.positions} positions"
        f" (tolerance in {done.dtype}: {done.tolerance:.0e}); holds {', '.join(done.parts)} in full"
    )
