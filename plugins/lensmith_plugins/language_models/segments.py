"""Attention over samples that lie end to end in one row: each computed on its own, so that nothing is masked away.

It is registered with transformers as an attention implementation of its own. A decoder hands every layer the mask
that it was given, so the borders of the samples travel as one: a small integer tensor in place of (B, 1, T, T).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "lensmith_segments"
"""The implementation's name: SDPA, and for rows of several samples SDPA of each, or a kernel for all of them."""

_BORDERS = torch.int32


def borders(starts: Sequence[int], window: int | None = None) -> Tensor:
    """A mask that says where samples start, in (1, 1, 2, samples) on the CPU.

    Args:
        starts: the first position of each sample, ascending from 0; each ends where the next starts.
        window: positions that a layer sees; None for all before.
    """
    return torch.tensor([list(starts), [window or 0] * len(starts)], dtype=_BORDERS)[None, None]


def is_borders(mask: Any) -> bool:
    """Whether a mask is what `borders` makes."""
    return isinstance(mask, Tensor) and mask.ndim == 4 and mask.dtype == _BORDERS


@lru_cache(maxsize=1)
def keep_uncompiled() -> None:
    """Leave attention out of what torch compiles: it would make a graph for every set of borders."""
    global _attend
    disable: Callable[..., Any] = torch.compiler.disable
    _attend = disable(_attend)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float | None, dropout: float
) -> Tensor:
    starts, (window, *_) = attention_mask[0, 0].tolist()
    bounds = [*starts, query.shape[2]]
    one_kernel = query.is_cuda and not dropout and query.shape[2] == key.shape[2]
    heads = query.shape[1], key.shape[1], query.shape[3]
    if one_kernel and _kernel_agrees(query.device, query.dtype, *heads, window > 0):
        return _by_kernel(query, key, value, bounds, window, scaling)
    return _one_by_one(query, key, value, bounds, window, scaling, dropout)


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls: query (B, H, T, d), key and value (B, K, S, d) to (B, T, H, d).

    With `borders` for a mask, B is 1, and positions of `key` before those of `query` are seen by every sample.
    """
    if not is_borders(attention_mask):
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    assert attention_mask is not None
    if kwargs.get("softcap") is not None or kwargs.get("position_bias") is not None:
        raise ValueError("scores that are capped or shifted cannot be computed by SDPA; set `attention: eager`")
    return _attend(query, key, value, attention_mask, scaling, dropout), None


AttentionInterface.register(NAME, segment_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def in_one_row(
    decode: Callable[[Tensor, Tensor, list[int]], Tensor], embeds: Tensor, positions: Tensor, segments: Tensor
) -> Tensor:
    """Decode packed rows as one row without padding.

    Args:
        decode: embeds (1, T, D), positions (1, T) and the starts of samples to hidden states (1, T, D).
        embeds, positions, segments: see `LanguageModel.forward`.
    """
    row, step = torch.nonzero(segments, as_tuple=True)
    owner = row * (int(segments.max()) + 1) + segments[row, step]
    starts = [0, *(torch.nonzero(owner.diff())[:, 0] + 1).tolist()]
    if len(segments) == 1 and len(row) == segments.numel():
        return decode(embeds, positions, starts)
    hidden = decode(embeds[row, step][None], positions[row, step][None], starts)
    return hidden.new_zeros(*segments.shape, hidden.shape[2]).index_put((row, step), hidden[0])


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, bounds: list[int], window: int, scale: float | None, dropout: float
) -> Tensor:
    before = key.shape[2] - query.shape[2]
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for start, end in pairwise(bounds):
        length = end - start
        keys, values = (_with(tensor, before, before + start, before + end) for tensor in (key, value))
        mask = None
        if before or 0 < window < length:
            step = torch.arange(length, device=query.device)
            distance = step[:, None] - step[None, :]
            seen = (distance >= 0) & (distance < (window or length))
            mask = torch.cat([seen.new_ones(length, before), seen], dim=1)
        output = F.scaled_dot_product_attention(
            query[:, :, start:end],
            keys,
            values,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=grouped,
        )
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1)


def _with(tensor: Tensor, before: int, start: int, end: int) -> Tensor:
    """A sample's keys or values, behind those that every sample sees."""
    own = tensor[:, :, start:end]
    return torch.cat([tensor[:, :, :before], own], dim=2) if before else own


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, bounds: list[int], window: int, scale: float | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends = _ends(tuple(bounds), query.device)
    longest = max(end - start for start, end in pairwise(bounds))
    output = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        ends,
        ends,
        longest,
        longest,
        scale=scale,
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, Tensor)
    return output[None]


@lru_cache(maxsize=8)
def _ends(bounds: tuple[int, ...], device: torch.device) -> Tensor:
    """Copied once for all layers: each copy makes the device wait."""
    return torch.tensor(bounds, dtype=torch.int32, device=device)


@lru_cache(maxsize=64)
def _kernel_agrees(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int, windowed: bool
) -> bool:
    """Whether torch's kernel for rows of several samples takes such heads here and computes what SDPA does of each.

    torch has several of them and chooses by length and window, so that samples are short and long here.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        return False
    generator = torch.Generator().manual_seed(0)
    bounds, results = [0, 5, 14, 274], []
    window = 50 if windowed else 0
    shapes = [(1, count, bounds[-1], width) for count in (heads, kv_heads, kv_heads)]
    drawn = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    weights = torch.randn(1, bounds[-1], heads, width, generator=generator).to(device, dtype)
    try:
        with torch.enable_grad():
            for attend in (_by_kernel, _without_dropout):
                q, k, v = (tensor.clone().requires_grad_() for tensor in drawn)
                output = attend(q, k, v, bounds, window, None)
                results.append([output.detach(), *torch.autograd.grad((output * weights).sum(), [q, k, v])])
    except (ImportError, RuntimeError, ValueError, TypeError):
        return False
    return all(bool((a - b).abs().max() <= 0.05 * b.abs().max()) for a, b in zip(*results, strict=True))


def _without_dropout(
    query: Tensor, key: Tensor, value: Tensor, bounds: list[int], window: int, scale: float | None
) -> Tensor:
    return _one_by_one(query, key, value, bounds, window, scale, 0.0)
