"""Beginnings and branches through a language model with a memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lensmith.inference.forest import Tree

if TYPE_CHECKING:
    from lensmith.interfaces.language_model import LanguageModel
    from lensmith.interfaces.memory import Memory


@dataclass
class Begun:
    """Rows that are decoded so far.

    Args:
        memory: of R rows.
        hidden: (R, T, D), of the positions decoded last; padding among it.
        real: (R, S), what is no padding in the memory.
        visible: (R, T, S), what each position sees; None where that is all before it.
    """

    memory: Memory
    hidden: Tensor
    real: Tensor
    visible: Tensor | None

    def rows(self, rows: Sequence[int], *, last: bool) -> tuple[Memory, Tensor]:
        """The memory of some rows, each as often as it is named, and their `real`.

        Args:
            rows: their numbers.
            last: whether nobody asks again, so that the memory itself may be given away.
        """
        if last and list(rows) == list(range(len(self.real))):
            return self.memory, self.real
        chosen = torch.tensor(rows, device=self.real.device)
        return self.memory.select(chosen), self.real[chosen]

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (R, Q, D) at places (R, Q), and what these see (R, Q, S)."""
        row = torch.arange(len(places), device=places.device)[:, None]
        if self.visible is not None:
            return self.hidden[row, places], self.visible[row, places]
        before = self.real.shape[1] - self.hidden.shape[1]
        step = torch.arange(self.real.shape[1], device=places.device)
        return self.hidden[row, places], step <= before + places[..., None]


class Decoder:
    """A language model fed with keys.

    Args:
        language_model: one with a memory.
        features: (F, D) picture tokens that negative keys name.
    """

    def __init__(self, language_model: LanguageModel, features: Tensor | None) -> None:
        self.language_model = language_model
        self.features = features

    def embed(self, keys: Tensor) -> Tensor:
        """Keys (R, T) to embeddings (R, T, D)."""
        embeds = self.language_model.embed(keys.clamp(min=0))
        shown = keys < 0
        if self.features is None or not bool(shown.any()):
            return embeds
        rows = -1 - keys[shown]
        return embeds.masked_scatter(shown[..., None], self.features[rows].to(embeds.dtype))

    def begin(self, trees: Sequence[Tree], behind: tuple[Memory, Tensor] | None = None) -> Begun:
        """Decode a tree a row.

        Args:
            trees: what comes next.
            behind: the memory that they come behind, one row for each, and what is no padding in it.
        """
        device = next(self.language_model.parameters()).device
        width = max(len(tree.keys) for tree in trees)
        keys = torch.zeros(len(trees), width, dtype=torch.long)
        depths = torch.zeros_like(keys)
        own = torch.zeros(len(trees), width, dtype=torch.bool)
        for row, tree in enumerate(trees):
            size = len(tree.keys)
            keys[row, :size] = torch.tensor(tree.keys)
            depths[row, :size] = torch.tensor(tree.depths)
            own[row, :size] = True
        keys, depths, own = (tensor.to(device) for tensor in (keys, depths, own))
        if behind is None:
            memory = self.language_model.memory()
            assert memory is not None
            before = own[:, :0]
        else:
            memory, before = behind
        plain = bool(before.all()) and all(tree.is_chain and len(tree.keys) == width for tree in trees)
        visible = None if plain else _visible(trees, width, before)
        positions = depths + before.sum(1, keepdim=True)
        hidden = self.language_model.recall(self.embed(keys), positions, visible, memory)
        return Begun(memory, hidden, torch.cat([before, own], dim=1), visible)


def _visible(trees: Sequence[Tree], width: int, before: Tensor) -> Tensor:
    """(R, T, S + T) of trees behind S positions. Padding sees itself: nothing may see nothing."""
    own = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        own[row, : len(tree.keys), : len(tree.keys)] = tree.visible()
    return torch.cat([before[:, None].expand(-1, width, -1), own.to(before.device)], dim=2)
