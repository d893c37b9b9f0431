"""What a stage asks of this machine, refused before anything is loaded."""

from __future__ import annotations

import os

import torch

from lensmith.errors import TrainingError
from lensmith.spec.run import StageSpec

_AHEAD = 4
"""Data workers of a rank: decoding and tokenising for one GPU."""


def require_hardware(name: str, stage: StageSpec) -> None:
    """Refuse what this machine cannot do.

    Args:
        name: of the stage.
        stage: the stage.

    Raises:
        TrainingError: a paged optimiser without CUDA, fp16 where the device has none, a disk without asynchronous
            reads; each with what to set instead.
    """
    optimizer = stage.optimizer.name
    if optimizer.startswith("paged_") and not torch.cuda.is_available():
        raise TrainingError(
            f"stages.{name}.optimizer.name: {optimizer} pages memory of a CUDA GPU, and there is none here;"
            f" take {optimizer.removeprefix('paged_')}"
        )
    offloaded = (stage.deepspeed.offload_optimizer, stage.deepspeed.offload_parameters)
    if stage.precision != "fp16" and "nvme" not in offloaded:
        return
    from lensmith.training.engine import quiet

    quiet()
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if stage.precision == "fp16" and not get_accelerator().is_fp16_supported():
        raise TrainingError(
            f"stages.{name}.precision: DeepSpeed has no fp16 on this device ({get_accelerator().device_name()});"
            " take bf16 or fp32"
        )
    if "nvme" in offloaded and not AsyncIOBuilder().is_compatible(verbose=False):
        raise TrainingError(
            f"stages.{name}.deepspeed: offload to nvme needs libaio's headers (package libaio-dev or libaio-devel),"
            " which are not here; install them, or offload to cpu"
        )


def accelerator() -> torch.device:
    """Where this rank will train."""
    from lensmith.training.engine import quiet

    quiet()
    from deepspeed.accelerator import get_accelerator

    return torch.device(get_accelerator().device_name(int(os.environ.get("LOCAL_RANK", "0"))))


def data_workers(stage: StageSpec) -> int:
    """Processes that prepare a stage's rows for this rank."""
    if stage.data.workers is not None:
        return stage.data.workers
    if accelerator().type == "cpu":
        return 0  # they would take the cores that train
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(_AHEAD, (os.cpu_count() or 1) // ranks)


def set_tf32(allowed: bool) -> None:
    """Say whether a GPU may multiply fp32 numbers in TF32. torch's own default lets convolutions and nothing else."""
    kind = "tf32" if allowed else "ieee"
    torch.backends.cuda.matmul.fp32_precision = kind
    torch.backends.cudnn.conv.fp32_precision = kind  # type: ignore[attr-defined]
