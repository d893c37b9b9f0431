"""`lensmith train`: run the stages of a spec, in this process or in several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lensmith.cli.specs import OverridesArgument, SpecArgument


def train(
    spec: SpecArgument,
    overrides: OverridesArgument = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the run's folder holds.")] = False,
    stage: Annotated[str | None, typer.Option("--stage", help="Run this stage alone.")] = None,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes (GPUs) on this machine.")] = 1,
    hostfile: Annotated[Path | None, typer.Option("--hostfile", help="DeepSpeed hostfile, several machines.")] = None,
) -> None:
    """Train the stages of a spec with DeepSpeed; each writes an artifact that `lensmith generate` takes."""
    from lensmith.spec.check import checked
    from lensmith.training import launch, output_folder

    loaded = checked(spec, overrides or ())
    folder = output_folder(loaded, spec, output)
    if (nproc > 1 or hostfile is not None) and not launch.is_worker():
        arguments = ["train", str(spec), *(overrides or ()), "--output", str(folder)]
        arguments += ["--resume"] if resume else []
        arguments += ["--stage", stage] if stage else []
        raise typer.Exit(launch.launch(arguments, nproc=nproc, hostfile=hostfile))

    from lensmith.training import distributed
    from lensmith.training.stages import Options, run_stages

    artifacts = run_stages(loaded, Options(folder, resume=resume, only=stage))
    if distributed.rank() == 0:
        for artifact in artifacts:
            print(artifact)
