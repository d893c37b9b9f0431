"""`lensmith train`: run the stages of a spec, in this process or in several."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lensmith.cli.specs import LockedOption, OverridesArgument, SpecArgument
from lensmith.errors import Problem, SpecError
from lensmith.io.chatter import VERBOSE


def train(
    spec: SpecArgument,
    overrides: OverridesArgument = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the run's folder holds.")] = False,
    stage: Annotated[str | None, typer.Option("--stage", help="Run this stage alone.")] = None,
    max_steps: Annotated[
        int | None,
        typer.Option("--max-steps", min=1, max=10**9, help="Steps of every stage that runs, instead of the spec's."),
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done and how much memory it takes; load no weights.")
    ] = False,
    nproc: Annotated[int, typer.Option("--nproc", min=1, max=1024, help="Processes (GPUs) on this machine.")] = 1,
    hostfile: Annotated[Path | None, typer.Option("--hostfile", help="DeepSpeed hostfile, several machines.")] = None,
    locked: LockedOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what libraries say on their own account.")] = False,
) -> None:
    """Train the stages of a spec with DeepSpeed; each writes an artifact that `lensmith generate` takes."""
    if verbose:
        os.environ[VERBOSE] = "1"  # the ranks' too
    from lensmith.training import launch, loaded_for, output_folder

    if locked:
        from lensmith.locking import require_locked

        require_locked(spec, overrides or ())
    try:
        loaded = loaded_for(spec, overrides or (), stage, max_steps)
    except SpecError as error:
        raise (_with_absent_parts(error, output) if resume and output is not None else error) from None
    folder = output_folder(loaded, spec, output)
    if dry:
        from lensmith.training.dry_run import dry_run, hosts_world

        world = hosts_world(hostfile) if hostfile is not None else nproc
        for line in dry_run(loaded, world=world, only=stage):
            print(line)
        return
    if (nproc > 1 or hostfile is not None) and not launch.is_worker():
        launch.require_shares(loaded, nproc=nproc, hostfile=hostfile, only=stage)
        arguments = ["train", str(spec), *(overrides or ()), "--output", str(folder)]
        arguments += ["--resume"] if resume else []
        arguments += ["--stage", stage] if stage else []
        arguments += ["--max-steps", str(max_steps)] if max_steps else []
        raise typer.Exit(launch.launch(arguments, nproc=nproc, hostfile=hostfile))

    from lensmith.training import distributed
    from lensmith.training.stages import Options, run_stages

    artifacts = run_stages(loaded, Options(folder, resume=resume, only=stage))
    if distributed.rank() == 0:
        for artifact in artifacts:
            print(artifact)


def _with_absent_parts(error: SpecError, run: Path) -> SpecError:
    """The same mistakes, and what the run that is to be resumed was made with and is not here any more."""
    from lensmith.loading import absent_parts

    return SpecError(
        [*error.problems, *(Problem("", f"{run} was made with what is not here: {part}") for part in absent_parts(run))]
    )
