"""Items of a data set prepared by other processes, ahead of their use, by means that a small machine has."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lensmith.errors import TrainingError

EACH = 2
"""Items that each worker is ahead."""
_LARGER = 8
"""How much larger than the first item others may be: rows of many pictures, or of a picture in many views."""
_SHARED = Path("/dev/shm")
"""Where tensors are that processes share."""


def ahead(data: Dataset[Any], places: Sequence[int], workers: int) -> Iterator[Any]:
    """The items at these places, in their order, at most `EACH` a worker under way.

    Tensors are handed over in shared memory where there is plenty; each is an open file and room in /dev/shm, of which
    containers often have 64 MB. Else they are sent through a pipe, which costs a copy and needs neither.

    Args:
        data: what to read; its workers are forked, so that it may hold what cannot be pickled.
        places: keys of the items.
        workers: processes, at least one.

    Raises:
        TrainingError: a worker ended before its work; says what to set.
    """
    shares = _has_room(data[places[0]], workers * EACH)
    loader: DataLoader[Any] = DataLoader(
        data if shares else _Sent(data),
        batch_size=None,
        collate_fn=_as_it_is,
        sampler=places,
        num_workers=workers,
        prefetch_factor=EACH,
        # A forked worker inherits the open sources and the parts' specs, whose classes cannot be pickled.
        multiprocessing_context="fork" if "fork" in get_all_start_methods() else None,
        # DataLoader draws a seed when it is iterated; from here, not from the generator that dropout uses.
        generator=torch.Generator().manual_seed(0),
    )
    items = iter(loader)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except (RuntimeError, OSError) as error:
            raise TrainingError(
                f"a process that prepares rows ended before its work: {_first_line(error)}. Set `data.workers` lower"
                f" ({workers} here; 0 prepares rows in the training process)"
            ) from error
        yield item if shares else _received(item)


def _has_room(item: Any, count: int) -> bool:
    """Whether so many items of this size can be in shared memory at once, those of the other ranks here too."""
    tensors = _tensors(item)
    needed = sum(tensor.nbytes for tensor in tensors) * count * _LARGER * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return needed < _free_memory() and len(tensors) * count * _LARGER < _free_files()


def _free_memory() -> int:
    """Bytes of shared memory that are free."""
    return shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else 0


def _free_files() -> int:
    """Files that this process may still open."""
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = Path("/proc/self/fd")
    return allowed - (len(list(opened.iterdir())) if opened.is_dir() else 64)


@dataclass(frozen=True)
class _Plain:
    """A tensor as memory that is pickled with its values; one of torch's goes into shared memory."""

    memory: np.ndarray[Any, Any]
    dtype: torch.dtype
    shape: torch.Size

    @classmethod
    def of(cls, tensor: Tensor) -> _Plain:
        """The same values, of any type that torch has."""
        flat = tensor.contiguous().flatten()
        return cls(flat.view(torch.uint8).numpy(), tensor.dtype, tensor.shape)

    def tensor(self) -> Tensor:
        """The tensor again."""
        return torch.from_numpy(self.memory).view(self.dtype).view(self.shape)


class _Sent(Dataset[Any]):
    """The same items without tensors of torch."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitem__(self, place: int) -> Any:
        return _each(self.data[place], Tensor, _Plain.of)


def _received(item: Any) -> Any:
    return _each(item, _Plain, _Plain.tensor)


def _tensors(item: Any) -> list[Tensor]:
    """Every tensor within an item."""
    found: list[Tensor] = []
    _each(item, Tensor, found.append)
    return found


def _each(item: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """An item with everything of a kind in it changed, within lists, tuples, dicts and data classes."""
    if isinstance(item, kind):
        return change(item)
    if isinstance(item, (list, tuple)) and not hasattr(item, "_fields"):
        return type(item)(_each(one, kind, change) for one in item)
    if isinstance(item, dict):
        return {key: _each(one, kind, change) for key, one in item.items()}
    if is_dataclass(item) and not isinstance(item, (type, _Plain)):
        return replace(item, **{f.name: _each(getattr(item, f.name), kind, change) for f in fields(item) if f.init})
    return item


def _as_it_is(item: Any) -> Any:
    return item


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
