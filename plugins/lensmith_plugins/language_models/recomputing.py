"""Activation checkpointing of a frozen network: transformers recomputes in training mode alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_frozen(network: nn.Module) -> None:
    """Have the blocks that transformers would checkpoint recomputed in evaluation mode too, where gradients pass."""
    for module in network.modules():
        if isinstance(module, GradientCheckpointingLayer):
            _wrap(module)


def _wrap(block: nn.Module) -> None:
    plain = block.forward

    def forward(*args: Any, **keywords: Any) -> Any:
        if block.training or not torch.is_grad_enabled():
            return plain(*args, **keywords)
        return checkpoint(plain, *args, use_reentrant=False, **keywords)

    block.forward = forward
