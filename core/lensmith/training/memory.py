"""An allocation that fails: recognised whatever library says it, and told with what would fit."""

from __future__ import annotations

import errno
import gc

import torch

from lensmith.errors import TrainingError
from lensmith.spec.run import StageSpec
from lensmith.training.feed import Split

_SAID = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "defaultcpuallocator",
    "alloc_failed",
    "bad_alloc",
)


class OutOfMemory(TrainingError):
    """There was not enough memory for a step.

    Args:
        message: for the user.
        moved: the optimiser had begun to move the weights, so that they are of no step.
    """

    def __init__(self, message: str, *, moved: bool) -> None:
        self.moved = moved
        super().__init__(message)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had: on a GPU, on the CPU, for a process or a shared segment."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAID)


def told(error: BaseException) -> str:
    """What the library said, one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = next((line for line in lines if any(words in line.lower() for words in _SAID)), lines[0] if lines else "")
    return first[:300] or type(error).__name__


def advice(name: str, stage: StageSpec, split: Split) -> str:
    """What of a stage takes less memory, what changes the least first.

    Args:
        name: of the stage.
        stage: the stage.
        split: how its batch is shared now.
    """
    path, share = f"stages.{name}", split.micro * split.accumulation
    cures = []
    if split.micro > 1:
        smaller = max(n for n in range(1, split.micro // 2 + 1) if share % n == 0)
        cures.append(f"{path}.batch.micro={smaller} (it is {split.micro}; a step keeps its {split.size} rows)")
    if not stage.activation_checkpointing:
        cures.append(f"{path}.activation_checkpointing=true")
    cures.append(f"{path}.data.max_length, where rows are long")
    if split.world > 1 and stage.deepspeed.zero < 3:
        cures.append(f"{path}.deepspeed.zero={stage.deepspeed.zero + 1} (in a new run)")
    if torch.cuda.is_available() and not stage.deepspeed.offload_optimizer:
        cures.append(f"{path}.deepspeed.offload_optimizer=cpu (in a new run)")
    gpu = " `lensmith plan SPEC --hardware GPU` says what fits." if torch.cuda.is_available() else ""
    return f"what takes less: {'; '.join(cures)}.{gpu}"


def free() -> None:
    """Give back what a step that failed has left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
