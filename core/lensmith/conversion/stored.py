"""Tensors that stay in their files until they are asked for, and files that are written shard by shard.

Nothing here needs more memory than one shard that is being written: `.safetensors` and `torch.save`'s files are mapped,
so that what is read of them are pages of the files, which the system may drop.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lensmith.errors import LensmithError
from lensmith.files import write_json
from lensmith.io.json import JsonError, read_json
from lensmith.io.sizes import check_entries

SHARD = 1 << 30
"""Bytes of a shard that is written, where no single tensor is larger."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_INDEXES = (INDEX, "pytorch_model.bin.index.json")
_WHOLE = (WEIGHTS, "pytorch_model.bin")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """A tensor that is known and not read.

    Args:
        shape, dtype: of it.
        load: reads it; what it gives may be a view of a mapped file and is not to be written to.
        origin: its file, for messages.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]
    origin: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def to(self, dtype: torch.dtype | None) -> Stored:
        """The same in another floating type; None, and whole numbers, stay as they are."""
        if dtype is None or dtype == self.dtype or not self.dtype.is_floating_point:
            return self
        load = self.load
        return Stored(self.shape, dtype, lambda: load().to(dtype), self.origin)

    @classmethod
    def of(cls, tensor: Tensor, origin: str = "") -> Stored:
        """One that is in memory already."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor, origin)


def weight_files(folder: Path) -> list[Path]:
    """The files with a folder's whole model: those of an index, else the single file that `save_pretrained` writes.

    Raises:
        LensmithError: an index that cannot be read, or whose files are not all there.
    """
    for name in _INDEXES:
        if not (folder / name).is_file():
            continue
        try:
            shards = sorted(set(check_entries(read_json(folder / name)["weight_map"].values(), str(folder / name))))
        except JsonError:
            raise
        except ValueError as error:
            raise LensmithError(str(error)) from error
        except (KeyError, AttributeError, TypeError) as error:
            raise LensmithError(f"{folder / name} cannot be read: {type(error).__name__}: {error}") from error
        if missing := [shard for shard in shards if not (folder / shard).is_file()]:
            raise LensmithError(f"{folder / name} names {', '.join(missing)}, not there; get the whole checkpoint")
        return [folder / shard for shard in shards]
    return [folder / name for name in _WHOLE if (folder / name).is_file()][:1]


def read_all(files: Iterable[Path]) -> dict[str, Stored]:
    """The tensors of several files, by name. Raises as `read`."""
    found: dict[str, Stored] = {}
    for file in files:
        found |= read(file)
    return found


def read(file: Path) -> dict[str, Stored]:
    """The tensors of one file, by name.

    Args:
        file: safetensors, or what `torch.save` wrote: of that only tensors are read, nothing is executed.

    Raises:
        LensmithError: it cannot be read, or holds anything else.
    """
    if not file.is_file():
        raise LensmithError(f"{file} does not exist")
    return _safetensors(file) if file.suffix == ".safetensors" else _saved(file)


def _safetensors(file: Path) -> dict[str, Stored]:
    try:
        opened: Any = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise LensmithError(f"{file}: its weights cannot be read: {error}") from error
    found = {}
    for name in opened.keys():  # noqa: SIM118 - not a mapping
        piece = opened.get_slice(name)
        dtype = _DTYPES.get(piece.get_dtype())
        if dtype is None:
            raise LensmithError(f"{file}: {name} is of the type {piece.get_dtype()}, which no part here has")
        found[name] = Stored(tuple(piece.get_shape()), dtype, _getter(opened, name), str(file))
    return found


def _getter(opened: Any, name: str) -> Callable[[], Tensor]:
    return lambda: opened.get_tensor(name)


def _saved(file: Path) -> dict[str, Stored]:
    try:
        try:
            stored = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            stored = torch.load(file, map_location="cpu", weights_only=True)  # of before torch 1.6, cannot be mapped
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LensmithError(
            f"{file} is not read: it is damaged or holds more than tensors, which might run code ({reason[:160]})"
        ) from error
    if not isinstance(stored, Mapping) or not all(isinstance(t, Tensor) for t in stored.values()):
        raise LensmithError(f"{file} does not hold tensors by name")
    return {str(name): Stored.of(tensor.detach(), str(file)) for name, tensor in stored.items()}


def write_weights(folder: Path, tensors: Mapping[str, Stored], *, limit: int = SHARD) -> None:
    """Write safetensors as `save_pretrained` does: `model.safetensors`, or shards and their index.

    Args:
        folder: where.
        tensors: in the order of the files.
        limit: bytes of a shard.
    """
    plan = list(_shards(tensors, limit))
    if len(plan) == 1:
        write_file(folder / WEIGHTS, {name: tensors[name] for name in plan[0]})
        return
    places: dict[str, str] = {}
    for number, names in enumerate(plan, 1):
        file = f"model-{number:05}-of-{len(plan):05}.safetensors"
        write_file(folder / file, {name: tensors[name] for name in names})
        places |= dict.fromkeys(names, file)
    write_json(
        folder / INDEX, {"metadata": {"total_size": sum(t.size for t in tensors.values())}, "weight_map": places}
    )


def write_file(file: Path, tensors: Mapping[str, Stored]) -> None:
    """Write one safetensors file."""
    save_file({name: _whole(name, t) for name, t in tensors.items()}, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors makes it private, and servers run as somebody else


def _whole(name: str, stored: Stored) -> Tensor:
    tensor = stored.load()
    if tuple(tensor.shape) != stored.shape or tensor.dtype != stored.dtype:
        raise LensmithError(
            f"{stored.origin}: {name} is {tuple(tensor.shape)} of {tensor.dtype}, not {stored.shape} of {stored.dtype}"
        )
    return tensor.contiguous()


def _shards(tensors: Mapping[str, Stored], limit: int) -> Iterator[list[str]]:
    names: list[str] = []
    held = 0
    for name, stored in tensors.items():
        if names and held + stored.size > limit:
            yield names
            names, held = [], 0
        names.append(name)
        held += stored.size
    yield names


def main_dtype(tensors: Iterable[Stored]) -> torch.dtype:
    """The floating type that most bytes are of; fp32 where there are none."""
    sizes: dict[torch.dtype, int] = {}
    for stored in tensors:
        if stored.dtype.is_floating_point:
            sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.size
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)
