"""Keys and values that a decoder keeps, in buffers with room to grow, and masks over them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from lensmith import Memory
from lensmith_plugins.language_models.packing import AttentionPlan

_ROOM = 64
_WINDOWED = "sliding_attention"


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed here
    """Keys and values (B, heads, S, head width) of one layer, appended in place: a step copies only what is new.

    Sliding layers keep everything too; the masks know the window.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append states (B, heads, T, head width); all there are now."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held, new = self.get_seq_length(), key_states.shape[2]
        if self._buffers is None or self._buffers[0].shape[2] < held + new:
            # The first states come alone where they are also the last ones, as for scores.
            room = held + new + (max(_ROOM, (held + new) // 4) if held else 0)
            self._buffers = self._moved(key_states, self.keys, room), self._moved(value_states, self.values, room)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, held : held + new] = states
        self.keys, self.values = (buffer[:, :, : held + new] for buffer in self._buffers)
        return self.keys, self.values

    def select(self, rows: Tensor) -> RoomyLayer:
        """A layer of these rows, each as often as it is named."""
        chosen = RoomyLayer()
        if self.is_initialized:
            chosen.lazy_initialization(self.keys, self.values)
            chosen.keys, chosen.values = self.keys[rows], self.values[rows]
        return chosen

    @staticmethod
    def _moved(like: Tensor, states: Tensor, room: int) -> Tensor:
        buffer = like.new_empty(*like.shape[:2], room, like.shape[3])
        if states.numel():
            buffer[:, :, : states.shape[2]] = states
        return buffer


@dataclass
class DecoderMemory(Memory):
    """What a transformers decoder has seen.

    Args:
        cache: keys and values by layer.
        positions: (B, S) of what is held; None while it is empty.
    """

    cache: Any = field(default_factory=lambda: Cache(layer_class_to_replicate=RoomyLayer))
    positions: Tensor | None = None

    @property
    def length(self) -> int:
        """See `Memory.length`."""
        return 0 if self.positions is None else self.positions.shape[1]

    def select(self, rows: Tensor) -> DecoderMemory:
        """See `Memory.select`."""
        layers = [layer.select(rows) for layer in self.cache.layers]
        chosen = DecoderMemory(positions=None if self.positions is None else self.positions[rows])
        chosen.cache.layers = layers
        return chosen

    def append(self, positions: Tensor) -> Tensor:
        """Note the positions (B, T) that come next; all (B, S + T)."""
        self.positions = positions if self.positions is None else torch.cat([self.positions, positions], dim=1)
        return self.positions


def masks(
    plan: AttentionPlan, visible: Tensor, queries: Tensor, keys: Tensor, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """Masks (B, 1, T, S + T) as a decoder takes them, by kind of layer where there are several.

    Args:
        plan: what its layers need.
        visible: (B, T, S + T), what each position sees.
        queries, keys: (B, T) and (B, S + T) positions; a window counts these, not places in the memory.
        dtype: of the embeddings.
    """
    found: dict[str, Tensor] = {}
    for kind in plan.kinds:
        seen = visible
        if kind == _WINDOWED and plan.window is not None:
            seen = seen & (queries[:, :, None] - keys[:, None, :] < plan.window)
        seen = seen[:, None]
        if plan.additive:
            seen = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
        found[kind] = seen
    return found if len(found) > 1 else next(iter(found.values()))
