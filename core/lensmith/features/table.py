"""Sixteen-byte keys to a few numbers, sorted: half a million take 20 MB, and forked workers share them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 16


class Table:
    """An immutable map.

    Args:
        keys: (n, 16) uint8; of equal keys the first counts.
        values: (n, k) int64.
    """

    def __init__(self, keys: NDArray[np.uint8], values: NDArray[np.int64]) -> None:
        halves = np.ascontiguousarray(keys).view("<u8").reshape(-1, 2)
        order = np.argsort(halves[:, 0], kind="stable")
        self._first, self._second = halves[order, 0].copy(), halves[order, 1].copy()
        self._values = values[order]

    def __len__(self) -> int:
        return len(self._first)

    def find(self, key: bytes, passed_over: Collection[tuple[int, ...]] = ()) -> tuple[int, ...] | None:
        """The numbers of a key, the first that are not to be passed over."""
        first, second = np.frombuffer(key, "<u8")
        at = int(np.searchsorted(self._first, first))
        while at < len(self._first) and self._first[at] == first:
            if self._second[at] == second:
                numbers = tuple(int(number) for number in self._values[at])
                if numbers not in passed_over:
                    return numbers
            at += 1
        return None


def key_array(keys: list[bytes]) -> NDArray[np.uint8]:
    """Keys as the (n, 16) array that a table takes."""
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
