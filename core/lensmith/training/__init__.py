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
) -> list[Path]:
    """Train the stages of a spec in this process (or, under a launcher, as one of its ranks).

    Args:
        spec: a file, a mapping or a `RunSpec`.
        overrides: `dotted.path=value`.
        output: folder of the run; by default the spec's, else `runs/` and the spec's name.
        resume: go on with what the folder holds.
        stage: run only this one; those before it must be there.
        max_steps: instead of what the spec says, for every stage that runs.

    Returns:
        The stages' artifacts, in order.

    Raises:
        SpecError, DataError, ArtifactError, TrainingError: see their docs.
    """
    from lensmith.training.stages import Options, run_stages

    loaded = loaded_for(spec, overrides, stage, max_steps)
    folder = output_folder(loaded, spec, output)
    return run_stages(loaded, Options(folder, resume=resume, only=stage))


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
