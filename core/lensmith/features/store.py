"""Features on disk: shards that are whole or not there, each with its own index, mapped into memory.

A folder holds the features of one encoding (see `keys`):

    about.json            what they depend on
    probe.safetensors     what the encoder made of a probe picture
    shard-*.safetensors   features (views, N, W); keys (pictures, 16), starts (pictures + 1) and checksums of them
    files-*.safetensors   keys of files (n, 16), keys of their contents (n, 16), sizes (n, 2) of the pictures

Every process writes files of its own, under a temporary name first, so that neither a kill nor another process can
leave half of one. An index that all would have to share does not exist.
"""

from __future__ import annotations

import os
import struct
import time
import uuid
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensmith.features.table import KEY_BYTES, Table, key_array
from lensmith.interfaces.shapes import Size
from lensmith.io.json import parse_json

SHARD_BYTES = 256 << 20
SHARD_SECONDS = 60.0
"""Features that a process holds back until it writes a shard, and for how long; what a kill loses at most."""
TEMPORARY = ".writing-"
ABANDONED = 600.0
"""Seconds after which nobody writes a file any more that nothing was added to."""


class Location(NamedTuple):
    """Where a picture's features are."""

    shard: int
    first: int
    views: int


class KnownFile(NamedTuple):
    """What is known of a file: hash of its bytes, and (height, width) of the picture."""

    content: bytes
    size: Size


class Store:
    """The features of one encoding.

    Args:
        folder: its folder.
        tokens, width: N and W.
        dtype: of the features.
    """

    def __init__(self, folder: Path, tokens: int, width: int, dtype: torch.dtype) -> None:
        self.folder, self.tokens, self.width, self.dtype = folder, tokens, width, dtype
        self.bytes_per_view = tokens * width * dtype.itemsize
        self.damaged: list[str] = []
        self._bad: set[Location] = set()
        self._shards: list[_Shard] = []
        self._maps: dict[int, Tensor] = {}
        self._files: list[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]] = []
        self._read: set[str] = set()
        self._index, self._names = _table([], [], 3), _table([], [], 4)
        self.refresh()

    def refresh(self) -> None:
        """See what other processes have written since."""
        for path in sorted(self.folder.glob("*.safetensors")):
            kind = path.name.partition("-")[0]
            if path.name in self._read or kind not in ("shard", "files"):
                continue
            self._read.add(path.name)
            try:
                if kind == "shard":
                    self._shards.append(_Shard.open(path, self))
                else:
                    self._files.append(_open_files(path))
            except (OSError, ValueError, KeyError) as error:
                self.damaged.append(f"{path} is left aside: {error}")
        rows = [
            np.stack([np.full(len(s.keys), number), s.starts[:-1], np.diff(s.starts)], axis=1)
            for number, s in enumerate(self._shards)
        ]
        self._index = _table([s.keys for s in self._shards], rows, 3)
        files = [np.concatenate([np.ascontiguousarray(c).view("<i8"), s], axis=1) for _, c, s in self._files]
        self._names = _table([keys for keys, _, _ in self._files], files, 4)

    def __len__(self) -> int:
        return len(self._index)

    def find(self, entry: bytes) -> Location | None:
        """Where the features with that `entry_key` are; not those that `read` found damaged."""
        found = self._index.find(entry, self._bad)
        return None if found is None else Location(*found)

    def file(self, key: bytes) -> KnownFile | None:
        """What is known of the file with that `file_key`."""
        found = self._names.find(key)
        if found is None:
            return None
        return KnownFile(np.array(found[:2], "<i8").tobytes(), (found[2], found[3]))

    def read(self, place: Location) -> Tensor | None:
        """Features (V, N, W), mapped from the disk; None where they are not what was written, by their checksum."""
        if place.shard not in self._maps:
            self._maps[place.shard] = self._shards[place.shard].map(self)
        shard = self._shards[place.shard]
        found = self._maps[place.shard][place.first : place.first + place.views]
        number = int(np.searchsorted(shard.starts, place.first, side="left"))
        if checksum(shard.keys[number].tobytes(), found) == int(shard.sums[number]):
            return found
        if place not in self._bad:
            self._bad.add(place)
            warnings.warn(
                f"feature cache: {shard.path} holds a damaged record; its image is encoded again", stacklevel=2
            )
        return None


class Writer:
    """Adds features to a store; a context that writes what is left when it ends well.

    Args:
        store: the store, which sees the new features after `refresh`.
        shard_bytes: see `SHARD_BYTES`.
    """

    def __init__(self, store: Store, shard_bytes: int = SHARD_BYTES) -> None:
        self.store, self.shard_bytes = store, shard_bytes
        self._entries: dict[bytes, Tensor] = {}
        self._waiting = 0
        self._files: dict[bytes, KnownFile] = {}
        self._flushed = time.monotonic()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            self.flush()

    def __contains__(self, entry: bytes) -> bool:
        return entry in self._entries or self.store.find(entry) is not None

    def add(self, entry: bytes, features: Tensor) -> None:
        """Features (V, N, W) of a picture, by its `entry_key`."""
        # A copy: a view would hold on to the whole batch that it was encoded in.
        self._entries[entry] = features.to("cpu", self.store.dtype, copy=True)
        self._waiting += features.numel() * self.store.dtype.itemsize
        if self._waiting >= self.shard_bytes or time.monotonic() - self._flushed > SHARD_SECONDS:
            self.flush()

    def add_file(self, key: bytes, known: KnownFile) -> None:
        """What a file holds, by its `file_key`."""
        self._files[key] = known

    def flush(self) -> None:
        """Write what is waiting: the features first, then the files that lead to them."""
        if self._entries:
            features = list(self._entries.values())
            starts = np.cumsum([0, *(len(views) for views in features)])
            self._write(
                "shard",
                {
                    "features": torch.cat(features).contiguous(),
                    "keys": torch.from_numpy(key_array(list(self._entries)).copy()),
                    "starts": torch.from_numpy(starts.astype(np.int64)),
                    "sums": torch.tensor([checksum(k, f) for k, f in self._entries.items()], dtype=torch.int64),
                },
            )
        if self._files:
            known = list(self._files.values())
            self._write(
                "files",
                {
                    "files": torch.from_numpy(key_array(list(self._files)).copy()),
                    "contents": torch.from_numpy(key_array([file.content for file in known]).copy()),
                    "sizes": torch.tensor([file.size for file in known], dtype=torch.int64),
                },
            )
        self._entries, self._files, self._waiting = {}, {}, 0
        self._flushed = time.monotonic()

    def _write(self, kind: str, tensors: dict[str, Tensor]) -> None:
        write(self.store.folder / f"{kind}-{uuid.uuid4().hex}.safetensors", tensors)


def checksum(key: bytes, features: Tensor) -> int:
    """CRC-32 of a record and its key: finds every flipped bit, and a record that stands in another's place.

    Args:
        key: its `entry_key`.
        features: (V, N, W), on the CPU, one after another in memory.
    """
    return zlib.crc32(features.contiguous().view(torch.uint8).numpy().data, zlib.crc32(key))


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file that is whole or not there, on the disk when this returns.

    Raises:
        OSError: it could not be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")
    try:
        save_file(tensors, temporary)
        _sync(temporary)
        temporary.rename(path)
        _sync(path.parent)
    except SafetensorError as error:  # how the library tells of a full disk
        raise OSError(f"{path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path, older: float = ABANDONED) -> None:
    """Delete what kills left half-written.

    Args:
        folder: of the features.
        older: seconds for which nothing was written to it; who opens the folder, or has no locks, may write now.
    """
    for left in folder.glob(f"{TEMPORARY}*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > older:
                left.unlink()


@dataclass(frozen=True)
class _Shard:
    path: Path
    offset: int
    keys: NDArray[np.uint8]
    starts: NDArray[np.int64]
    sums: NDArray[np.int64]

    @classmethod
    def open(cls, path: Path, store: Store) -> _Shard:
        """Read the index of a shard.

        Raises:
            OSError, ValueError, KeyError: it is damaged, or not of this store.
        """
        header, begin = _header(path)
        found = header["features"]
        kind = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
        wanted = [kind[str(store.dtype).removeprefix("torch.")], [store.tokens, store.width]]
        if [found["dtype"], found["shape"][1:]] != wanted:
            raise ValueError(f"it holds {found['dtype']} {found['shape']}, not views of {wanted}")
        keys = _array(path, header, begin, "keys", np.uint8)
        starts = _array(path, header, begin, "starts", np.int64)
        sums = _array(path, header, begin, "sums", np.int64)
        fits = len(starts) == len(keys) + 1 == len(sums) + 1 and starts[0] == 0 and starts[-1] == found["shape"][0]
        if not fits or (np.diff(starts) <= 0).any():
            raise ValueError("its index does not fit its features")
        return cls(path, begin + found["data_offsets"][0], keys, starts, sums)

    def map(self, store: Store) -> Tensor:
        """Its features (views, N, W). Nothing is read before it is looked at."""
        views = int(self.starts[-1])
        # Copy on write: torch wants memory that may be written, and the file never is.
        flat = np.memmap(self.path, np.uint8, "c", self.offset, (views * store.bytes_per_view,))
        return torch.from_numpy(flat).view(store.dtype).view(views, store.tokens, store.width)


def _open_files(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    header, begin = _header(path)
    keys, contents = (_array(path, header, begin, name, np.uint8) for name in ("files", "contents"))
    return keys, contents, _array(path, header, begin, "sizes", np.int64)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file and where its data begin, once it is known to be whole."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        size = os.fstat(file.fileno()).st_size
        if length > size:
            raise ValueError("it is cut off")
        header: dict[str, Any] = parse_json(file.read(length), str(path))
    header.pop("__metadata__", None)
    if 8 + length + max(entry["data_offsets"][1] for entry in header.values()) != size:
        raise ValueError("it is cut off")
    return header, 8 + length


def _array(path: Path, header: dict[str, Any], begin: int, name: str, dtype: Any) -> NDArray[Any]:
    start, end = header[name]["data_offsets"]
    with path.open("rb") as file:
        file.seek(begin + start)
        flat = np.frombuffer(file.read(end - start), dtype)
    shaped: NDArray[Any] = flat.reshape(header[name]["shape"])
    return shaped


def _table(keys: list[NDArray[np.uint8]], values: list[NDArray[np.int64]], columns: int) -> Table:
    if not keys:
        return Table(np.empty((0, KEY_BYTES), np.uint8), np.empty((0, columns), np.int64))
    return Table(np.concatenate(keys), np.concatenate(values))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
