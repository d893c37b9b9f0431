"""Whether a `.gguf` file's header fits the file, before a reader believes its counts. No torch here.

The layout is that of the GGUF specification (ggml, version 2 and 3, little-endian): magic, version, two counts, then
keys with values, then tensors.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type: integers, floats and truth values."""
_STRING, _ARRAY = 8, 9
_DEPTH, _DIMENSIONS = 4, 8


def check_header(path: str) -> None:
    """Walk through a header.

    Raises:
        ValueError: not a GGUF file, or one that promises more than it holds; names the field.
    """
    with Path(path).open("rb") as file:
        start = file.read(4)
        if start != b"GGUF":
            raise ValueError(f"{path} is not a GGUF file: it begins with {start!r}, not b'GGUF'")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _Walk(data, path).header()
        except struct.error as error:
            raise ValueError(f"{path} is not a whole GGUF file: it ends within its header") from error


class _Walk:
    """A place in the file that moves forward."""

    def __init__(self, data: mmap.mmap, path: str) -> None:
        self.data, self.path, self.place = data, path, 4

    def header(self) -> None:
        version = self._number("<I")
        if version not in (2, 3):
            raise ValueError(f"{self.path} is GGUF of version {version}; 2 and 3 are read, little-endian")
        tensors, keys = self._number("<Q"), self._number("<Q")
        self._fits("its number of keys", keys, 13)
        self._fits("its number of tensors", tensors, 24)
        for _ in range(keys):
            name = self._text("a key")
            self._value(self._number("<I"), name, 0)
        for _ in range(tensors):
            name = self._text("a tensor's name")
            dimensions = self._number("<I")
            if dimensions > _DIMENSIONS:
                raise ValueError(f"{self.path}: the tensor {name!r} has {dimensions} dimensions")
            self.place += 8 * dimensions + 4
            offset = self._number("<Q")
            if offset > len(self.data):
                raise ValueError(f"{self.path}: the tensor {name!r} lies behind the end of the file; get it again")

    def _value(self, kind: int, name: str, depth: int) -> None:
        if kind == _STRING:
            self._text(name)
        elif kind == _ARRAY:
            inner, count = self._number("<I"), self._number("<Q")
            if depth >= _DEPTH:
                raise ValueError(f"{self.path}: the field {name!r} is nested more than {_DEPTH} deep")
            self._fits(f"the field {name!r}", count, _WIDTHS.get(inner, 8))
            if inner in _WIDTHS:
                self.place += count * _WIDTHS[inner]
            else:
                for _ in range(count):
                    self._value(inner, name, depth + 1)
        elif kind in _WIDTHS:
            self.place += _WIDTHS[kind]
        else:
            raise ValueError(f"{self.path}: the field {name!r} is of the type {kind}, which GGUF does not have")

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.data, self.place)
        self.place += struct.calcsize(form)
        return int(value)

    def _text(self, what: str) -> str:
        length = self._number("<Q")
        self._fits(what, length, 1)
        text = self.data[self.place : self.place + min(length, 200)]
        self.place += length
        return text.decode("utf-8", "replace")

    def _fits(self, what: str, count: int, width: int) -> None:
        if count * width > len(self.data) - self.place:
            raise ValueError(
                f"{self.path} is not a whole GGUF file: {what} promises {count:,} entries, more than the file's"
                f" {len(self.data):,} bytes hold; get it again"
            )
