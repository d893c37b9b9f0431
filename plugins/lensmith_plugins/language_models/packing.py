"""Samples packed into rows, and how a decoder is kept from looking across them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lensmith_plugins.language_models.segments import NAME, borders

_WINDOWED = "sliding_attention"
_KNOWN = {"full_attention", _WINDOWED}


@dataclass(frozen=True)
class AttentionPlan:
    """Which masks a decoder needs for packed rows.

    Args:
        kinds: the kinds of its attention layers (`full_attention`, `sliding_attention`), each once.
        window: positions that a sliding layer sees.
        additive: whether masks are added to the scores (eager) or select (SDPA).
    """

    kinds: tuple[str, ...]
    window: int | None
    additive: bool

    @classmethod
    def of(cls, config: Any, attention: str) -> AttentionPlan | None:
        """The plan for a transformers text config; None where its layers take no such masks.

        Args:
            config: the decoder's config.
            attention: name of the attention implementation.
        """
        if attention not in ("sdpa", "eager", NAME) or getattr(config, "alibi", False):
            return None  # alibi counts its distances from the padding mask
        window = getattr(config, "sliding_window", None)
        layers = getattr(config, "layer_types", None)
        kinds = tuple(dict.fromkeys(layers)) if layers else (_WINDOWED if window else "full_attention",)
        if not _KNOWN.issuperset(kinds) or (_WINDOWED in kinds and window is None):
            return None
        return cls(kinds, window, additive=attention == "eager")

    def masks(self, segments: Tensor, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
        """Block-diagonal causal masks (B, 1, T, T) of packed rows, by kind where there are several.

        Args:
            segments: (B, T), see `LanguageModel.forward`. Padding sees padding, so that no row of scores is empty.
            dtype: of the embeddings.
        """
        length = segments.shape[1]
        step = torch.arange(length, device=segments.device)
        distance = step[:, None] - step[None, :]
        same = segments[:, None, :, None] == segments[:, None, None, :]
        masks: dict[str, Tensor] = {}
        for kind in self.kinds:
            seen = distance >= 0
            if kind == _WINDOWED and self.window is not None:
                seen = seen & (distance < self.window)
            allowed = same & seen
            if self.additive:
                blocked = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
                allowed = blocked.masked_fill(~allowed, torch.finfo(dtype).min)
            masks[kind] = allowed
        return _alone(masks)

    def borders(self, starts: Sequence[int]) -> Tensor | dict[str, Tensor]:
        """The same for one row without padding under the attention `segments.NAME`, at no cost.

        Args:
            starts: the first position of each sample.
        """
        return _alone({kind: borders(starts, self.window if kind == _WINDOWED else None) for kind in self.kinds})


def _alone(masks: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
    return masks if len(masks) > 1 else next(iter(masks.values()))


def one_segment_a_row(
    decode: Callable[[Tensor, Tensor, Tensor], Tensor], embeds: Tensor, positions: Tensor, segments: Tensor
) -> Tensor:
    """Decode packed rows as if they had not been packed: exact for every architecture, at the cost of padding.

    Args:
        decode: embeds (R, L, D), positions (R, L) and mask (R, L) of single segments to hidden states (R, L, D).
        embeds, positions, segments: see `LanguageModel.forward`.
    """
    row, step = torch.nonzero(segments, as_tuple=True)
    key = row * (int(segments.max()) + 1) + segments[row, step]
    _, owner, sizes = torch.unique(key, return_inverse=True, return_counts=True)
    order = torch.argsort(owner, stable=True)
    starts = torch.cumsum(sizes, 0) - sizes
    slot = torch.empty_like(owner)
    slot[order] = torch.arange(len(owner), device=owner.device) - starts[owner[order]]

    rows, longest = len(sizes), int(sizes.max())
    alone = embeds.new_zeros(rows, longest, embeds.shape[2]).index_put((owner, slot), embeds[row, step])
    places = positions.new_zeros(rows, longest).index_put((owner, slot), positions[row, step])
    mask = torch.arange(longest, device=sizes.device)[None, :] < sizes[:, None]
    hidden = decode(alone, places, mask)
    packed = hidden.new_zeros(*embeds.shape[:2], hidden.shape[2])
    return packed.index_put((row, step), hidden[owner, slot])
