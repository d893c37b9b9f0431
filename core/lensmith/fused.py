"""The last layer and its loss in one kernel, from liger-kernel (arXiv 2410.10989), where that is installed."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def usable(projection: nn.Linear, hidden: Tensor) -> bool:
    """Whether `fused_cross_entropy` gives the loss of these states and all gradients.

    Args:
        projection: `LanguageModel.projection()`.
        hidden: (P, D), at least one.
    """
    # The kernel makes gradients unscaled, which could vanish in fp16, and none at all where only the layer trains. A
    # weight that DeepSpeed shards is there only while its module runs.
    return (
        fits(hidden.device, hidden.dtype)
        and projection.weight.dtype == hidden.dtype
        and (hidden.requires_grad or not torch.is_grad_enabled())
        and len(hidden) > 0
        and not hasattr(projection.weight, "ds_id")
    )


def fits(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel is installed and is exact there: on a GPU, or anywhere in Triton's interpreter."""
    runs = device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    return runs and dtype in (torch.float32, torch.bfloat16) and importlib.util.find_spec("liger_kernel") is not None


def fused_cross_entropy(projection: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of positions; the gradients are made with it.

    Args:
        projection: the last layer, (D) to (vocabulary).
        hidden: (P, D), supervised positions only.
        targets: (P,) ids.
    """
    total: Tensor = _kernel()(projection.weight, hidden, targets, projection.bias)
    return total


@cache
def _kernel() -> Any:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    # Sums over many pieces, in bf16, would lose what one large product keeps.
    return LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)
