"""`lensmith import`, `export`, `push`: in and out of other projects' formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lensmith.cli.merge import Precision

OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write, which must not exist.")]


def import_(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder, file of weights, or hub id owner/name.")],
    output: OutputOption,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="What the files leave open; `lensmith show importer NAME`."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Language model of a projector or LoRA folder: folder or hub id.")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="Name of the importer, where the files fit several.")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a hub id.")] = None,
) -> None:
    """Make an artifact of another project's checkpoint: original LLaVA, transformers' LLaVA, BLIP-2 and others."""
    from lensmith.conversion.importing import import_checkpoint

    given = [*(options or ()), *([f"base={base}"] if base is not None else ())]
    done = import_checkpoint(source, output, format=format, revision=revision, options=given)
    print(done.folder)
    at = f" at {done.revision}" if done.revision else ""
    print(f"{source}{at} is {done.recognised} (importer {done.format})")
    for note in done.notes:
        print(f"  {note}")


def export(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder that a stage or an import wrote.")],
    to: Annotated[str, typer.Option("--to", "-t", help="Name of the exporter: `lensmith list --kind exporter`.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write, which must not exist.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Fields of the exporter, and where a base has moved: language_model.checkpoint=PATH",
        ),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Fold adapters into the weights first.")] = False,
    dtype: Annotated[
        Precision | None, typer.Option("--dtype", help="Type of the weights; by default the artifact's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say whether the format can express it.")] = False,
    seed: Annotated[int, typer.Option(help="Of the questions that are compared.")] = 0,
) -> None:
    """Write an artifact for other software, after comparing its logits with the artifact's; else write nothing."""
    import torch

    from lensmith.conversion import exporting
    from lensmith.errors import ArtifactError

    if output is None and not dry_run:
        raise ArtifactError("say where to write with --output, or ask with --dry-run")
    given = options or []
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    done = exporting.export(
        artifact,
        output or Path("unwritten"),
        to=to,
        merge=merge,
        dtype=types[dtype.value] if dtype else None,
        options=[option for option in given if "." not in option.partition("=")[0]],
        overrides=[option for option in given if "." in option.partition("=")[0]],
        seed=seed,
        dry_run=dry_run,
    )
    if done is None:
        print(f"{artifact} can be exported to {to}")
        return
    print(done.folder)
    print(
        f"logits within {done.difference:.2e} of the largest at {done.positions} positions"
        f" (tolerance in {done.dtype}: {done.tolerance:.0e})"
    )
    if done.pixels:
        print(
            f"pixels of its own processor within {done.pixels:.1f} grey levels of 255 (the logits are of equal pixels)"
        )
    for note in done.notes:
        print(f"  {note}")


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An artifact, or what an export wrote.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub; made if missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch to write to; by default the main.")] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Of the commit.")] = "Upload with Lensmith",
) -> None:
    """Upload a folder to the model hub in one commit; with the token that huggingface_hub is logged in with."""
    from lensmith.conversion.pushing import push as upload

    print(upload(folder, repository, private=private, revision=revision, message=message))
