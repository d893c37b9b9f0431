"""Cross-entropy over a vocabulary, in pieces, so that the logits of all positions never exist together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]

PIECE = 1 << 24
"""Logits that exist at a time: 64 MiB in float32."""


def summed_cross_entropy(head: Head, hidden: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Sum of the cross-entropies of positions, exact in value and gradient.

    What does not fit in one piece is differentiated while it is computed, so that the backward pass has nothing left
    to do but to scale; where that would not be the same, the backward pass computes each piece's logits again.

    Args:
        head: hidden states (P, D) to logits (P, vocabulary).
        hidden: (P, D), supervised positions only.
        targets: (P,) ids.
        vocabulary: width of the logits.
    """
    size = max(1, PIECE // vocabulary)
    if len(hidden) <= size:
        return _whole(head, hidden, targets)
    if not torch.is_grad_enabled():
        return torch.stack([_whole(head, h, t) for h, t in _pieces(hidden, targets, size)]).sum()
    weights = _weights(head, hidden)
    if not weights and not hidden.requires_grad:
        return torch.stack([_whole(head, h, t) for h, t in _pieces(hidden, targets, size)]).sum()
    # Unscaled gradients could vanish in fp16, whose loss is scaled for that reason. A weight that DeepSpeed shards is
    # there only while its module runs or is differentiated.
    if hidden.dtype == torch.float16 or any(hasattr(weight, "ds_id") for weight in weights):
        losses = [
            checkpoint(_whole, head, h, t, use_reentrant=False, determinism_check="none")
            for h, t in _pieces(hidden, targets, size)
        ]
        return torch.stack(losses).sum()
    total: Tensor = _InPieces.apply(head, targets, size, hidden, *weights)
    return total


def _whole(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, reduction="sum")


def _pieces(hidden: Tensor, targets: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(hidden, size), torch.split(targets, size), strict=True)


def _weights(head: Head, hidden: Tensor) -> list[nn.Parameter]:
    """The parameters that train and on which the logits depend, found by following the graph of one position."""
    with torch.enable_grad():
        node = head(hidden[:1].detach()).grad_fn
    found: dict[int, Any] = {}
    seen: set[Any] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found[id(leaf)] = leaf
        waiting += [following for following, _ in node.next_functions]
    return list(found.values())


class _InPieces(torch.autograd.Function):
    """The sum, with its gradients made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, head: Head, targets: Tensor, size: int, hidden: Tensor, *weights: Tensor) -> Tensor:
        # Sums over many pieces, in bf16, would lose what one large product keeps.
        sums = [torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)) for weight in weights]
        inward = torch.empty_like(hidden) if hidden.requires_grad else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        start = 0
        for states, wanted in _pieces(hidden, targets, size):
            with torch.enable_grad():
                inputs = states.detach().requires_grad_(inward is not None)
                logits = head(inputs)
            slope = F.log_softmax(logits.detach().float(), dim=-1)
            total -= slope.gather(1, wanted[:, None]).sum()
            slope.exp_()
            slope.scatter_add_(1, wanted[:, None], slope.new_full((len(wanted), 1), -1.0))
            asked = [*weights] if inward is None else [inputs, *weights]
            found = list(torch.autograd.grad(logits, asked, slope.to(logits.dtype)))
            if inward is not None:
                inward[start : start + len(wanted)] = found.pop(0)
            for collected, gradient in zip(sums, found, strict=True):
                collected += gradient
            start += len(wanted)
        ctx.gradients = [inward, *sums]
        ctx.types = [hidden.dtype, *(weight.dtype for weight in weights)]
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, []
        scaled = [
            None if gradient is None else (gradient.to(torch.promote_types(dtype, torch.float32)) * scale).to(dtype)
            for gradient, dtype in zip(gradients, ctx.types, strict=True)
        ]
        return (None, None, None, *scaled)
