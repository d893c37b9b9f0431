"""What moves in torch: its counter of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lensmith.tested import LibraryError

Result = TypeVar("Result")


def counted(run: Callable[[], Result]) -> tuple[int, Result]:
    """Multiply-adds times two of what a function computes, and its result.

    Attention is computed as the two matrix products that it is: of its kernels, torch counts those of some devices
    and versions and silently leaves out others (75,142,656 on the meta device and 59,473,920 on the CPU for one ViT).

    Raises:
        LibraryError: torch's counter does not count a matrix product or attention right.
    """
    _probe()
    return _counted(run)


def _counted(run: Callable[[], Result]) -> tuple[int, Result]:
    # With gradients on: the counter fails without them where a module is handed a parameter.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result


_probed = False


def _probe() -> None:
    """One layer of every kind that costs, on the meta device: what is counted is what the formula says."""
    global _probed
    if _probed:
        return
    with torch.device("meta"):
        linear, convolution = torch.nn.Linear(4, 6), torch.nn.Conv2d(3, 5, 3, groups=1)
        heads = torch.zeros(1, 2, 7, 8)
        found = [
            _counted(lambda: linear(torch.zeros(3, 4)))[0],
            _counted(lambda: convolution(torch.zeros(1, 3, 6, 6)))[0],
            _counted(lambda: torch.nn.functional.scaled_dot_product_attention(heads, heads, heads))[0],
        ]
    expected = [2 * 3 * 4 * 6, 2 * 4 * 4 * 5 * 3 * 9, 2 * 2 * (2 * 7 * 7 * 8)]
    if found != expected:
        raise LibraryError("torch", f"its counter of operations finds {found} where there are {expected}")
    _probed = True
