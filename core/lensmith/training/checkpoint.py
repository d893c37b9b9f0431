"""State of a running stage: an artifact that can be used at once, and `resume/` with what only training needs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lensmith import files
from lensmith.artifacts import MANIFEST, Manifest, changed_sources, whole_parts
from lensmith.errors import ArtifactError, TrainingError
from lensmith.io.json import read_json
from lensmith.manifests import foreign
from lensmith.tensors import not_finite, told_names
from lensmith.training import distributed
from lensmith.training.divergence import require_finite

if TYPE_CHECKING:
    from lensmith.training.engine import Engine

_NAME = re.compile(r"step-(\d{8})\Z")
_TAG = "engine"
_RESUME = "resume"
_INVENTORY = "resume.json"
_good: dict[Path, tuple[Any, ...]] = {}
"""Checkpoints that this process wrote or read through, by what their files looked like then."""


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
        keep: how many of the newest that are whole stay.

    Raises:
        Diverged: weights, optimiser state or loss are not finite.
        TrainingError: a full disk or another failure; the checkpoints before are as they were.
    """
    temporary = files.temporary_name(target)
    require_finite(engine, int(target.name.removeprefix("step-")))
    state = engine.gather(whole_parts(engine.model))
    need = needed(engine, state)

    def begin() -> None:
        if distributed.rank() == 0:
            target.parent.mkdir(parents=True, exist_ok=True)
            files.sweep(target.parent)
            files.require_space(target, need)
            (files.begin(target) / _RESUME / _TAG).mkdir(parents=True)

    def fill() -> None:
        from lensmith.training.state_files import state_files

        with state_files(engine.engine) as written:
            # DeepSpeed would point `latest` at a folder before it is complete; the rename below is our pointer.
            engine.engine.save_checkpoint(
                str(temporary / _RESUME), tag=_TAG, save_latest=False, exclude_frozen_parameters=True
            )
        if written.failure is not None:
            raise written.failure
        save_file(_random_state(), temporary / _RESUME / f"random-{distributed.rank()}.safetensors")
        if distributed.rank() == 0:
            artifact = temporary / "artifact"
            artifact.mkdir()
            write(artifact, state)
            for item in artifact.iterdir():
                item.rename(temporary / item.name)
            artifact.rmdir()

    def publish() -> None:
        if distributed.rank() == 0:
            manifest = files.sha256(temporary / MANIFEST)
            listed = files.inventory(temporary / _RESUME)
            entries = {"world": distributed.world(), "manifest": manifest, "files": listed}
            files.write_json(temporary / _INVENTORY, entries)
            files.publish(temporary, target)
            _good[target] = _appearance(target)
            _retire(target.parent, keep)

    for action in (begin, fill, publish):
        _together(action, target, need)


def _together(action: Callable[[], None], target: Path, need: int) -> None:
    """Do something on every rank; where it fails on one, it has failed on all."""
    failure = ""
    try:
        action()
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        if isinstance(error, ArtifactError):
            told = str(error)
        elif target.parent.is_dir() and files.disk_is_full(error, target.parent):
            told = files.full_disk_message(target, need)
        failure = f"rank {distributed.rank()}: {told}"
    if failures := distributed.all_agree(failure):
        if distributed.rank() == 0:
            shutil.rmtree(files.temporary_name(target), ignore_errors=True)
        raise TrainingError(
            f"the checkpoint {target} could not be written ({'; '.join(failures)}); the ones before it are untouched"
        )


def needed(engine: Engine, state: dict[str, torch.Tensor]) -> int:
    """Bytes that a checkpoint takes at least, over all ranks: gathered weights, and what the optimiser holds.

    Args:
        engine: the running engine.
        state: what it gathered, on rank 0.
    """
    inner = getattr(engine.engine.optimizer, "optimizer", engine.engine.optimizer)
    held = [value for values in inner.state.values() for value in values.values() if isinstance(value, torch.Tensor)]
    own = sum(tensor.nbytes for tensor in [*held, *state.values()])
    (everything,) = distributed.reduce([own], torch.distributed.ReduceOp.SUM, engine.device)
    return int(everything)


def _retire(folder: Path, keep: int) -> None:
    """Delete checkpoints beyond the newest `keep` that are whole; damaged ones among these do not count."""
    good = 0
    for path in reversed(_existing(folder)):
        if good >= keep:
            files.remove(path)
        elif not damage(path):
            good += 1


@dataclass(frozen=True)
class Found:
    """The newest checkpoint of a stage that is whole.

    Args:
        folder: where it is.
        damaged: newer ones that are not, and what is wrong with them.
    """

    folder: Path
    damaged: list[str]


def find(run: Path, stage: str) -> Found | None:
    """The newest whole checkpoint of a stage, on all ranks the same; None where there is none at all.

    Raises:
        TrainingError: there are some, and all are damaged.
    """
    damaged: list[str] = []
    chosen: str | None = None
    if distributed.rank() == 0:
        for folder in reversed(_existing(run / "checkpoints" / stage)):
            if not (problems := damage(folder)):
                chosen = str(folder)
                break
            damaged.append(f"{folder} is damaged: {'; '.join(problems)}")
    chosen, damaged = distributed.from_first((chosen, damaged))
    if chosen is None and damaged:
        raise TrainingError(
            "\n  ".join([f"no checkpoint of stage {stage!r} is whole, so there is nothing to resume from:", *damaged])
            + f"\n  delete {run / 'checkpoints' / stage} and go on with --resume: the stage then starts anew"
        )
    return Found(Path(chosen), damaged) if chosen is not None else None


def damage(folder: Path) -> list[str]:
    """What of a checkpoint is missing or was changed; files that were read through before are not read again."""
    if _good.get(folder) == (appearance := _appearance(folder)):
        return []
    try:
        manifest = Manifest.read(folder)
        listed = _inventory(folder)
    except (TrainingError, ArtifactError) as error:
        return [str(error).removeprefix(f"{folder} is damaged: ")]
    problems = [f"{_RESUME}/{problem}" for problem in files.verify(folder / _RESUME, listed["files"])]
    for extra in files.names(folder / _RESUME) - listed["files"].keys():
        problems.append(f"{_RESUME}/{extra} does not belong to it")
    problems += files.verify(folder, {MANIFEST: listed["manifest"]} | manifest.data["files"])
    problems += foreign(folder)
    if not problems:
        problems += _diverged(folder)
    if not problems:
        _good[folder] = appearance
    return problems


def _diverged(folder: Path) -> list[str]:
    """Which of a checkpoint's files hold numbers that are not finite, as a run that diverged leaves them."""
    from lensmith.training.state_files import tensors_of

    problems = []
    for file in sorted([*folder.rglob("*.safetensors"), *folder.glob(f"{_RESUME}/**/*.pt")]):
        try:
            held = load_file(file) if file.suffix == ".safetensors" else tensors_of(file)
        except (TrainingError, OSError, SafetensorError):
            continue  # told where it is read
        if bad := not_finite(held):
            problems.append(f"{file.relative_to(folder)} is not finite ({told_names(bad)}), the run had diverged")
    return problems


def last_good(run: Path, stage: str, before: int) -> Path | None:
    """The newest whole checkpoint of fewer steps than `before`; rank 0 looks, on all ranks the same."""
    found = None
    if distributed.rank() == 0:
        for folder in reversed(_existing(run / "checkpoints" / stage)):
            if int(folder.name.removeprefix("step-")) < before and not damage(folder):
                found = str(folder)
                break
    found = distributed.from_first(found)
    return Path(found) if found is not None else None


def begun(run: Path, stage: str) -> bool:
    """Whether a stage has checkpoints, whole or not."""
    return bool(_existing(run / "checkpoints" / stage))


def step_of(folder: Path) -> int:
    """Optimiser steps that a checkpoint has done."""
    return int(Manifest.read(folder).data["step"])


def restore(engine: Engine, folder: Path) -> None:
    """Put engine and random state back. What the files hold has been verified by `find`.

    Raises:
        TrainingError: files that DeepSpeed cannot read, or must not, since they hold more than its own state.
    """
    from lensmith.training.state_files import refuse_foreign, state_files

    if foreign := distributed.all_agree(refuse_foreign(folder / _RESUME) if distributed.rank() == 0 else ""):
        raise TrainingError(foreign[0])
    same_world = _inventory(folder)["world"] == distributed.world()
    path, failure, random = None, "", {}
    try:
        with state_files(engine.engine):
            path, _ = engine.engine.load_checkpoint(str(folder / _RESUME), tag=_TAG, load_module_strict=False)
        if same_world:
            random = load_file(folder / _RESUME / f"random-{distributed.rank()}.safetensors")
    except Exception as error:  # DeepSpeed asserts what it does not find
        failure = f" ({type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]})"
    told = ""
    if path is None or failure:
        held = ", ".join(sorted(files.names(folder / _RESUME))[:6]) or "nothing"
        told = (
            f"{folder} holds no state that DeepSpeed can read{failure}: {_RESUME}/ has {held}; restore what was"
            " renamed or changed, or delete the checkpoint and go on with --resume from the one before"
        )
    if everywhere := distributed.all_agree(told):
        raise TrainingError(everywhere[0])
    if not same_world:
        # Each rank's own draws go on for as many ranks alone; these are as good, and the same for the same number.
        torch.manual_seed((step_of(folder) * 1_000_003 + distributed.rank()) % 2**64)
        return
    torch.set_rng_state(random["cpu"])
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"])


def _existing(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.match(p.name) and p.is_dir())


def _appearance(folder: Path) -> tuple[Any, ...]:
    stats = ((name, (folder / name).stat()) for name in sorted(files.names(folder)))
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _random_state() -> dict[str, Any]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def check_world(folder: Path) -> None:
    """Refuse to go on with another number of ranks where the state is sharded, which only as many ranks can read.

    Raises:
        TrainingError: naming both numbers.
    """
    written = _inventory(folder)["world"]
    if written != distributed.world() and _is_sharded(folder):
        raise TrainingError(
            f"{folder} was written by {written} rank{'s' * (written != 1)}, each with its share of the state"
            f" (ZeRO), and this run has {distributed.world()};"
            f" resume with --nproc {written} (or as many GPUs in the hostfile), or start a new run from its weights"
            f" alone with start_from: {folder}"
        )


def _is_sharded(folder: Path) -> bool:
    """Whether the engine's state is in more files than the one that every rank reads."""
    return {file.name for file in (folder / _RESUME / _TAG).iterdir()} != {"mp_rank_00_model_states.pt"}


def check_data(folder: Path, sources: list[dict[str, Any]]) -> None:
    """Refuse to go on with other rows or bases than the checkpoint's.

    Args:
        folder: the checkpoint.
        sources: `data_provenance` of the open sources; only rank 0 has it.

    Raises:
        TrainingError: naming the files that changed.
    """
    changed = []
    if distributed.rank() == 0:
        manifest = Manifest.read(folder)
        changed = [entry["path"] for entry, now in zip(manifest.data["data"], sources, strict=True) if entry != now]
        changed += [str(file) for _, file in changed_sources(manifest)]
    if told := distributed.all_agree(", ".join(changed)):
        raise TrainingError(
            f"{told[0]} changed since {folder} was written; restore it, or start anew with another output"
        )


def _inventory(folder: Path) -> dict[str, Any]:
    path = folder / _INVENTORY
    try:
        stored = read_json(path)
        return {
            "world": int(stored["world"]),
            "manifest": {"size": (folder / MANIFEST).stat().st_size, "sha256": str(stored["manifest"])},
            "files": dict(stored["files"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{folder} is damaged: {path.name} cannot be read ({type(error).__name__}: {error})"
        ) from error


def check_same(
    folder: Path,
    expected: dict[str, Any],
    as_now: Callable[[dict[str, Any]], dict[str, Any]] = lambda stored: stored,
    free: Collection[str] = (),
) -> dict[str, tuple[Any, Any]]:
    """Refuse to go on with another spec than the checkpoint's.

    Args:
        folder: of the checkpoint.
        expected: of the run that goes on.
        as_now: what an older release wrote, in the words of this one.
        free: fields that may differ, as dotted paths of the record.

    Returns:
        Those that do, with both values.

    Raises:
        ArtifactError: naming the fields that differ, with both values.
    """
    stored = as_now(Manifest.read(folder).data["stage"])
    every = dict(sorted(_differences(stored, expected).items()))
    changed = {name: values for name, values in every.items() if name not in free}
    if changed:
        values = "; ".join(f"{name} was {then!r}, is {now!r}" for name, (then, now) in list(changed.items())[:8])
        raise ArtifactError(
            f"{folder} was trained with another spec: {', '.join(list(changed)[:8])} differ ({values}); restore what it"
            " was, or start anew with another output"
        )
    return {name: values for name, values in every.items() if name in free}


def _differences(then: Any, now: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(then, dict) and isinstance(now, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in then.keys() | now.keys():
            found |= _differences(then.get(key), now.get(key), f"{path}.{key}")
        return found
    return {} if then == now else {path.lstrip("."): (then, now)}
