"""What a decoder keeps of positions that it has seen, so that others can come after them."""

from __future__ import annotations

import abc

from torch import Tensor


class Memory(abc.ABC):
    """Keys and values of B rows of S positions."""

    @property
    @abc.abstractmethod
    def length(self) -> int:
        """S, the positions of a row that are held, padding included."""

    @abc.abstractmethod
    def select(self, rows: Tensor) -> Memory:
        """A memory of these rows (R,), each as often as it is named; this one stays as it is."""
