"""What the text of every row comes to (its length, what is learnt, whether it can be used), worked out once a file."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray

TEXT = np.dtype(
    [("ids", "<i4"), ("images", "<u2"), ("supervised", "<i4"), ("first", "<i4"), ("before", "<u2"), ("last", "<i4")]
)
"""Ids without the pictures' placeholders, pictures, supervised ids; ids and pictures before the first supervised one;
ids before the last picture. -1 and zeros for a row that cannot be used."""
Entry = tuple[int, int, int, int, int, int]
UNUSABLE: Entry = (-1, 0, 0, 0, 0, 0)
_CHUNK = 512
_ALONE = 4 * _CHUNK
"""Rows for which further processes are not worth their start."""

Texts = NDArray[np.void]
Read = Callable[[int], Entry]

_read: Read | None = None


def survey(rows: Sequence[int], read: Read) -> Texts:
    """Entries of type `TEXT`, one a row, worked out by all cores.

    Args:
        rows: what `read` is called with.
        read: the entry of a row.
    """
    global _read
    if len(rows) <= _ALONE or sys.platform in ("win32", "darwin"):
        return np.array([read(row) for row in rows], dtype=TEXT)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    _read = read  # a forked worker inherits the open sources and the tokenizer
    try:
        with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("fork")) as pool:
            return np.concatenate(list(pool.map(_chunk, chunks)))
    finally:
        _read = None


def _chunk(rows: Sequence[int]) -> Texts:
    assert _read is not None
    return np.array([_read(row) for row in rows], dtype=TEXT)
