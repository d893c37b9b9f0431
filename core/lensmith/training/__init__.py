"""Training: stages of a spec, by DeepSpeed. `train` is the Python door; `lensmith train` the command's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensmith.spec.run import RunSpec


def train(
    spec: RunSpec | Mapping[str, Any] | str | Path,
    *,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    resume: bool = False,
    stage: str | None = None,
    max_steps: int | None = None,
    nproc: int = 1,
) -> list[Path]:
    """Train the stages of a spec in this process (or, under a launcher, as one of its ranks).

    Args:
        spec: a file, a mapping or a `RunSpec`.
        overrides: `dotted.path=value`.
        output: folder of the run; by default the spec's, else `runs/` and the spec's name.
        resume: go on with what the folder holds.
        stage: run only this one; those before it must be there.
        max_steps: instead of what the spec says, for every stage that runs.
        nproc: processes (GPUs) on this machine; above 1 they are started by DeepSpeed's launcher, and this one waits.

    Returns:
        The stages' artifacts, in order.

    Raises:
        SpecError, DataError, ArtifactError, TrainingError: see their docs. With several processes what one of them
            meets is printed, and a TrainingError says that it failed.
    """
    from lensmith.training.stages import Options, run_stages

    loaded = loaded_for(spec, overrides, stage, max_steps)
    folder = output_folder(loaded, spec, output)
    if nproc > 1:
        _launched(loaded, folder, nproc, resume=resume, stage=stage)
        return [folder / name for name in loaded.stages if stage in (None, name)]
    return run_stages(loaded, Options(folder, resume=resume, only=stage))


def _launched(spec: RunSpec, folder: Path, nproc: int, *, resume: bool, stage: str | None) -> None:
    """Train in several processes of this machine, which read the resolved spec from a file.

    Raises:
        TrainingError: this process is one of several already, or one of them failed.
    """
    import tempfile

    from lensmith.errors import TrainingError
    from lensmith.files import write_json
    from lensmith.spec.build import dump
    from lensmith.training import launch

    if launch.is_worker():
        raise TrainingError("this process is one of several already; leave nproc out")
    with tempfile.TemporaryDirectory(prefix="lensmith-") as temporary:
        file = Path(temporary) / "spec.json"
        write_json(file, dump(spec))
        more = [*(["--resume"] if resume else []), *(["--stage", stage] if stage is not None else [])]
        code = launch.launch(["train", str(file), "--output", str(folder), *more], nproc=nproc)
    if code:
        raise TrainingError(
            f"training with {nproc} processes ended with exit code {code}; what it met is printed above"
        )


def loaded_for(source: Any, overrides: Sequence[str], stage: str | None, max_steps: int | None) -> RunSpec:
    """The checked spec of a run (see `train`).

    Raises:
        SpecError: every problem.
    """
    from lensmith.spec.check import checked

    spec = checked(source, overrides)
    if max_steps is None:
        return spec
    # Not the stages before `stage`: they are done, and what they were trained with is compared with the spec.
    names = [name for name in spec.stages if stage in (None, name)]
    return checked(spec, [f"stages.{name}.max_steps={max_steps}" for name in names])


def output_folder(spec: RunSpec, source: Any, output: str | Path | None) -> Path:
    """Folder of a run."""
    if output is not None:
        return Path(output).absolute()
    if spec.output is not None:
        return spec.output
    stem = Path(source).stem if isinstance(source, (str, Path)) else "run"
    return Path("runs").absolute() / stem
