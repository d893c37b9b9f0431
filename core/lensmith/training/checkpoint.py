"""State of a running stage: an artifact that can be used at once, and `resume/` with what only training needs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from lensmith.artifacts import MANIFEST, Manifest, whole_parts
from lensmith.errors import ArtifactError, TrainingError
from lensmith.files import inventory, sync, verify, write_json
from lensmith.training import distributed

if TYPE_CHECKING:
    from collections.abc import Callable

    from lensmith.training.engine import Engine

_NAME = re.compile(r"step-(\d{8})\Z")
_TAG = "engine"
_RESUME = "resume"
_INVENTORY = "resume.json"


def folder_of(run: Path, stage: str, step: int) -> Path:
    """Where a checkpoint is."""
    return run / "checkpoints" / stage / f"step-{step:08d}"


def save(
    engine: Engine,
    target: Path,
    write: Callable[[Path, dict[str, torch.Tensor]], None],
    keep: int,
) -> None:
    """Write one checkpoint from all ranks; it appears when every rank's share is on disk.

    Args:
        engine: the running engine.
        target: `folder_of` the step.
        write: fills a folder with the artifact, on rank 0, given the gathered weights.
        keep: how many of the newest stay.
    """
    temporary = target.with_name(f".writing-{target.name}")
    state = engine.gather(whole_parts(engine.model))
    if distributed.rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / _RESUME).mkdir(parents=True)
    distributed.barrier()
    failure = ""
    try:
        # DeepSpeed would point `latest` at a folder before it is complete; the rename below is our pointer.
        engine.engine.save_checkpoint(
            str(temporary / _RESUME), tag=_TAG, save_latest=False, exclude_frozen_parameters=True
        )
        save_file(_random_state(), temporary / _RESUME / f"random-{distributed.rank()}.safetensors")
        if distributed.rank() == 0:
            artifact = temporary / "artifact"
            artifact.mkdir()
            write(artifact, state)
            for item in artifact.iterdir():
                item.rename(temporary / item.name)
            artifact.rmdir()
    except Exception as error:
        failure = f"rank {distributed.rank()}: {type(error).__name__}: {error}"
    failures = distributed.all_agree(failure)
    if failures:
        if distributed.rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"the checkpoint {target} could not be written ({'; '.join(failures)}); the ones before it are untouched"
        )
    if distributed.rank() == 0:
        write_json(temporary / _INVENTORY, {"world": distributed.world(), "files": inventory(temporary / _RESUME)})
        sync(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for old in _existing(target.parent)[:-keep]:
            shutil.rmtree(old)
    distributed.barrier()


def newest(run: Path, stage: str) -> Path | None:
    """The newest complete checkpoint of a stage."""
    found = _existing(run / "checkpoints" / stage)
    return found[-1] if found else None


def step_of(folder: Path) -> int:
    """Optimiser steps that a checkpoint has done."""
    return int(Manifest.read(folder).data["step"])


def restore(engine: Engine, folder: Path) -> None:
    """Put engine and random state back.

    Raises:
        TrainingError: damaged files.
    """
    problems = verify(folder / _RESUME, _inventory(folder)["files"]) if distributed.rank() == 0 else []
    if problems := distributed.all_agree("; ".join(problems)):
        raise TrainingError(f"{folder} is damaged: {'; '.join(problems)}; delete it to resume from the one before")
    path, _ = engine.engine.load_checkpoint(str(folder / _RESUME), tag=_TAG, load_module_strict=False)
    if path is None:
        raise TrainingError(f"{folder} holds no state that DeepSpeed can read")
    random = load_file(folder / _RESUME / f"random-{distributed.rank()}.safetensors")
    torch.set_rng_state(random["cpu"])
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"])


def _existing(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.match(p.name) and (p / MANIFEST).is_file())


def _random_state() -> dict[str, Any]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def check_world(folder: Path) -> None:
    """Refuse to go on with another number of ranks.

    Raises:
        TrainingError: naming both numbers.
    """
    written = _inventory(folder)["world"]
    if written != distributed.world():
        raise TrainingError(
            f"{folder} was written by {written} ranks, this run has {distributed.world()};"
            f" resume with --nproc {written}"
        )


def check_data(folder: Path, sources: list[dict[str, Any]]) -> None:
    """Refuse to go on with other rows than the checkpoint's, which would be others in another order.

    Args:
        folder: the checkpoint.
        sources: `data_provenance` of the open sources; only rank 0 has it.

    Raises:
        TrainingError: naming the files that changed.
    """
    stored = Manifest.read(folder).data["data"]
    changed = [entry["path"] for entry, now in zip(stored, sources, strict=False) if entry != now]
    if changed := distributed.all_agree(", ".join(changed)):
        raise TrainingError(
            f"{changed[0]} changed since {folder} was written; restore it, or start anew with another output"
        )


def _inventory(folder: Path) -> dict[str, Any]:
    path = folder / _INVENTORY
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {"world": int(stored["world"]), "files": dict(stored["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{folder} is damaged: {path.name} cannot be read ({type(error).__name__}: {error}); delete the folder to"
            " resume from the one before"
        ) from error


def check_same(folder: Path, expected: dict[str, Any]) -> None:
    """Refuse to go on with another spec than the checkpoint's.

    Raises:
        ArtifactError: naming the fields that differ.
    """
    stored = Manifest.read(folder).data["stage"]
    changed = sorted(_differences(stored, expected))
    if changed:
        raise ArtifactError(
            f"{folder} was trained with another spec: {', '.join(changed[:8])} differ; restore them, or start anew"
            " with another output"
        )


def _differences(a: Any, b: Any, path: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in a.keys() | b.keys() for d in _differences(a.get(key), b.get(key), f"{path}.{key}")]
    return [] if a == b else [path.lstrip(".")]
