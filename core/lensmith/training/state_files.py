"""DeepSpeed's state files, written so that a failure is told and read so that nothing in them runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from lensmith.errors import TrainingError

_HARMLESS = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
"""What DeepSpeed's own state holds besides tensors: plain records, whose making does nothing else."""


class StateFiles(TorchCheckpointEngine):  # type: ignore[misc]
    """Writes and reads the files of `save_checkpoint` and `load_checkpoint`.

    DeepSpeed meets all ranks at barriers while it saves, so a rank that cannot write goes on to them; what went wrong
    is in `failure` afterwards. It reads with `weights_only=False`, which runs what a pickle says; here only tensors
    and `_HARMLESS` are made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None

    def save(self, state_dict: Any, path: str) -> None:
        """Write one file, and see that it will be read again."""
        if self.failure is not None:
            return
        try:
            torch.save(state_dict, path)
            if foreign := foreign_globals(Path(path)):
                raise TrainingError(f"the state holds {', '.join(foreign)}, which is not read back")
        except Exception as error:
            self.failure = error

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file.

        Raises:
            TrainingError: it holds more than tensors and records of DeepSpeed.
        """
        with torch.serialization.safe_globals(_HARMLESS):
            try:
                return torch.load(path, map_location=map_location, weights_only=True)
            except UnpicklingError as error:
                raise TrainingError(f"{path} is not read: {str(error).splitlines()[0]}") from error


@contextmanager
def state_files(engine: Any) -> Iterator[StateFiles]:
    """Have a DeepSpeed engine write and read through `StateFiles`."""
    before, engine.checkpoint_engine = engine.checkpoint_engine, StateFiles()
    try:
        yield engine.checkpoint_engine
    finally:
        engine.checkpoint_engine = before


def foreign_globals(file: Path) -> list[str]:
    """Names that a state file would have Python import, and that DeepSpeed's own state does not need.

    The file is taken apart without running anything of it.
    """
    with torch.serialization.safe_globals(_HARMLESS):
        try:
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
        except (UnpicklingError, ValueError, RuntimeError, EOFError) as error:
            return [f"what torch.save did not write ({str(error).splitlines()[0]})" if str(error) else "nothing whole"]


def tensors_of(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a state file by where they are in it, mapped from the disk.

    Raises:
        TrainingError: it holds more than tensors and records of DeepSpeed, or is no state file.
    """
    with torch.serialization.safe_globals(_HARMLESS):
        try:
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (UnpicklingError, ValueError, RuntimeError, EOFError, OSError) as error:
            raise TrainingError(
                f"{file} is not read: {(str(error) or type(error).__name__).splitlines()[0]}"
            ) from error
    return dict(_walk(state, ""))


def _walk(value: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path.lstrip("."), value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _walk(item, f"{path}.{number}")


def refuse_foreign(folder: Path) -> str:
    """A message about the first file below a folder that holds what does not belong there; empty where all is well."""
    for file in sorted(folder.rglob("*.pt")):
        if foreign := foreign_globals(file):
            return (
                f"{file} is not read: it holds {', '.join(foreign)}, which DeepSpeed's own state does not, and which"
                " may be code; delete the checkpoint unless you know who wrote it"
            )
    return ""


def probe() -> str:
    """Write and read what DeepSpeed's state is made of; a stranger's record is refused (for `lensmith doctor`).

    Raises:
        LibraryError: one of them is not so.
    """
    import tempfile

    from lensmith.tested import LibraryError

    with tempfile.TemporaryDirectory() as folder:
        file, files = str(Path(folder) / "state.pt"), StateFiles()
        files.save({"stage": ZeroStageEnum.weights, "scale": LossScaler(1.0), "tensor": torch.ones(2)}, file)
        if files.failure is not None:
            raise LibraryError("deepspeed", f"its state cannot be written: {files.failure}")
        if files.load(file)["stage"] != ZeroStageEnum.weights:
            raise LibraryError("deepspeed", "its state is not read back as it was written")
        torch.save({"odd": probe}, file)
        if not foreign_globals(Path(file)):
            raise LibraryError("torch", "a state file with a foreign function in it is not seen")
    return ""
