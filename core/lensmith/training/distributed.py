"""This process among the ranks. One process needs no launcher."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=30)
Value = TypeVar("Value")


def start() -> None:
    """Join the process group: the launcher's, or one of this process alone."""
    if dist.is_initialized():
        return
    atexit.register(_leave)
    backend = "nccl" if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda" else "gloo"
    if backend == "nccl":  # else objects of all ranks are exchanged through the first GPU
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend, timeout=TIMEOUT)
        return
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        os.environ.setdefault(name, value)
    alone = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=alone, rank=0, world_size=1, timeout=TIMEOUT)


def _leave() -> None:
    """Leave the group while Python still runs: torch's threads that outlive it abort one exit in twenty."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def reduce(values: Sequence[float], how: dist.ReduceOp.RedOpType, device: torch.device) -> list[float]:
    """Sum or maximum of numbers over all ranks."""
    if world() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=how)
    return [float(v) for v in tensor.tolist()]


def barrier() -> None:
    """Wait for all ranks."""
    if world() > 1:
        dist.barrier()


def release_shared_memory() -> None:
    """Take the name off the memory through which DeepSpeed's ranks exchange data on CPUs (66 MB a rank).

    DeepSpeed leaves it in `/dev/shm` for ever. Once every rank has mapped it, the name is of no use, and without it
    the system frees the memory when the ranks end, however they end.
    """
    barrier()
    for buffer in shared_memory(os.environ.get("MASTER_PORT", ""), str(rank())):
        buffer.unlink(missing_ok=True)


def shared_memory(port: str, rank: str = "*") -> list[Path]:
    """What of that memory still has a name, of the run that met at a port."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return list(Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_{user}_*_{port}_{rank}")) if port else []


def from_first(value: Value) -> Value:
    """What rank 0 has, on every rank."""
    if world() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def all_agree(failure: str) -> list[str]:
    """Every rank's message, so that all of them stop where one must. Empty messages mean success."""
    if world() == 1:
        return [failure] if failure else []
    gathered: list[str] = [""] * world()
    dist.all_gather_object(gathered, failure)
    return [message for message in gathered if message]
