"""Embeddings with rows for more tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from lensmith.conversion.stored import Stored

_BLOCK = 4096


def grown(stored: Stored, rows: int) -> Stored:
    """A table (vocabulary, D) with more rows, each the mean of those there are.

    In the output head such a row can at best draw level with the largest logit, so no answer changes.
    """
    if rows <= stored.shape[0]:
        return stored

    def load() -> Tensor:
        table = stored.load()
        larger = torch.empty(rows, stored.shape[1], dtype=stored.dtype)
        larger[: len(table)] = table
        larger[len(table) :] = _mean(table).to(stored.dtype)
        return larger

    return Stored((rows, stored.shape[1]), stored.dtype, load, stored.origin)


def _mean(table: Tensor) -> Tensor:
    """Over the rows, in fp64, block by block."""
    total = torch.zeros(table.shape[1], dtype=torch.float64)
    for start in range(0, len(table), _BLOCK):
        total += table[start : start + _BLOCK].to(torch.float64).sum(0)
    return total / len(table)
