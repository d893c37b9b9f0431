"""Attention over samples that lie end to end in one row: each computed on its own, so that nothing is masked away.

It is registered with transformers as an attention implementation of its own. A decoder hands every layer the mask
that it was given, so the borders of the samples travel as one: a small integer tensor in place of (B, 1, T, T).
"""

from __future__ import annotations

import inspect
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
_LIKE = 0.75
"""Samples share a batch where the shortest has at least this share of the longest one's positions."""


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
    alone = not dropout and query.shape[2] == key.shape[2]
    heads = query.shape[1], key.shape[1], query.shape[3]
    if alone and query.is_cuda and _kernel_agrees(query.device, query.dtype, *heads, window > 0):
        return _by_kernel(query, key, value, bounds, window, scaling)
    longest = max(end - start for start, end in pairwise(bounds))
    if alone and query.device.type == "cpu" and _learns(query, key, value) and (not window or window >= longest):
        return _side_by_side(query, key, value, bounds, scaling)
    return _one_by_one(query, key, value, bounds, window, scaling, dropout)


def _learns(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


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
            **_grouping(query.shape[1], key.shape[1]),
        )
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1)


def _side_by_side(query: Tensor, key: Tensor, value: Tensor, bounds: list[int], scale: float | None) -> Tensor:
    """Samples of like lengths as a batch, filled up behind, where causal attention does not look; in float32 at
    least.

    On CPUs the backward pass of half-precision attention is not vectorised: for samples of a hundred positions this
    takes a quarter of the time of one by one, and rounds less.
    """
    groups, back = _batches(tuple(bounds))
    exact = torch.promote_types(query.dtype, torch.float32)
    outputs = []
    for index, kept in groups:
        rows, longest = index.shape
        queries, keys, values = (
            tensor[0]
            .to(exact)
            .index_select(1, index.flatten())
            .view(-1, rows, longest, tensor.shape[3])
            .transpose(0, 1)
            for tensor in (query, key, value)
        )
        output = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=scale, **_grouping(query.shape[1], key.shape[1])
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1).index_select(0, kept))
    return torch.cat(outputs).index_select(0, back)[None].to(query.dtype)


@lru_cache(maxsize=8)
def _batches(bounds: tuple[int, ...]) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Samples in batches of like lengths, made once for all layers.

    Returns:
        For each batch the positions of its samples in rows (samples, longest), those past a sample's end its last one,
        and the places in the flattened rows that are not past an end; then where each position of the row is among
        these places of all batches.
    """
    spans = sorted(pairwise(bounds), key=lambda span: span[0] - span[1])
    groups: list[list[tuple[int, int]]] = []
    for start, end in spans:
        if groups and end - start >= _LIKE * (groups[-1][0][1] - groups[-1][0][0]):
            groups[-1].append((start, end))
        else:
            groups.append([(start, end)])
    batches, order = [], []
    for own in groups:
        longest = own[0][1] - own[0][0]
        step = torch.arange(longest)
        index = torch.stack([(start + step).clamp(max=end - 1) for start, end in own])
        real = torch.stack([step < end - start for start, end in own])
        batches.append((index, torch.nonzero(real.flatten())[:, 0]))
        order.append(index[real])
    back = torch.empty(bounds[-1], dtype=torch.long)
    back[torch.cat(order)] = torch.arange(bounds[-1])
    return batches, back


def _grouping(heads: int, kv_heads: int) -> dict[str, Any]:
    """The argument for fewer heads of keys than of queries, which not every torch knows, where it is needed."""
    return {"enable_gqa": True} if heads != kv_heads else {}


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
        **_grouping(query.shape[1], key.shape[1]),
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

    torch has several of them and chooses by length and window, so that samples are short and long here. What is asked
    for the first time may be inside of a checkpoint, whose hooks count the tensors that are saved, of inference mode or
    of autocast; the look is the same in all of them and leaves no trace.

    Raises:
        RuntimeError: what does not say that there is no such kernel, e.g. that memory ran out.
    """
    if dtype not in (torch.float16, torch.bfloat16) or not _kernel_takes(heads != kv_heads):
        return False
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.autograd.graph.saved_tensors_hooks(_same, _same),
    ):
        try:
            results = _tried(device, dtype, (heads, kv_heads, kv_heads), width, 50 if windowed else 0)
        except (ImportError, RuntimeError, ValueError) as error:
            if isinstance(error, _FAULTS):
                raise
            return False  # it says in its own words which heads, widths or devices it does not take
    return all(bool((a - b).abs().max() <= 0.05 * b.abs().max()) for a, b in zip(*results, strict=True))


_FAULTS: tuple[type[BaseException], ...] = (
    torch.OutOfMemoryError,
    *((torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()),
)
"""Errors of the device, which say nothing of a kernel."""


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _kernel_takes(grouped: bool) -> bool:
    """Whether this torch has the kernel, with the arguments that are needed of it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    needed = {"scale", "window_size"} | ({"enable_gqa"} if grouped else set())
    return needed <= inspect.signature(varlen_attn).parameters.keys()


def _tried(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int], width: int, window: int
) -> list[list[Tensor]]:
    """Output and gradients of random samples, by the kernel and one by one."""
    generator = torch.Generator().manual_seed(0)
    bounds, results = [0, 5, 14, 274], []
    drawn = [torch.randn(1, count, bounds[-1], width, generator=generator).to(device, dtype) for count in heads]
    weights = torch.randn(1, bounds[-1], heads[0], width, generator=generator).to(device, dtype)
    for attend in (_by_kernel, _without_dropout):
        q, k, v = (tensor.clone().requires_grad_() for tensor in drawn)
        output = attend(q, k, v, bounds, window, None)
        results.append([output.detach(), *torch.autograd.grad((output * weights).sum(), [q, k, v])])
    return results


def _without_dropout(
    query: Tensor, key: Tensor, value: Tensor, bounds: list[int], window: int, scale: float | None
) -> Tensor:
    return _one_by_one(query, key, value, bounds, window, scale, 0.0)
