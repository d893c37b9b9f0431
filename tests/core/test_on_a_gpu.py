"""What only a GPU can show: that its kernels compute what the CPU's paths compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lensmith import fused, loss
from lensmith_plugins.language_models import segments

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
BOUNDS = [0, 7, 40, 300]


@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(8, 8, 64), (8, 2, 128)])
def test_one_kernel_attends_as_one_by_one(window: int, heads: int, kv_heads: int, width: int) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, count, BOUNDS[-1], width) for count in (heads, kv_heads, kv_heads)]
    drawn = [torch.randn(shape, generator=generator).to("cuda", torch.bfloat16) for shape in shapes]
    assert segments._kernel_agrees(drawn[0].device, torch.bfloat16, heads, kv_heads, width, window > 0)
    results = []
    for attend in (segments._by_kernel, segments._without_dropout):
        q, k, v = (tensor.clone().requires_grad_() for tensor in drawn)
        output = attend(q, k, v, BOUNDS, window, None)
        results.append([output.detach(), *torch.autograd.grad(output.float().square().sum(), [q, k, v])])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() <= 0.05 * expected.abs().max()


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_the_fused_loss(dtype: torch.dtype, close: float) -> None:
    pytest.importorskip("liger_kernel")
    torch.manual_seed(0)
    layer = nn.Linear(64, 32_000, bias=False, device="cuda", dtype=dtype)
    hidden = torch.randn(300, 64, device="cuda", dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 32_000, (300,), device="cuda")
    assert fused.usable(layer, hidden)
    one = fused.fused_cross_entropy(layer, hidden, targets)
    other = loss.summed_cross_entropy(layer, hidden, targets, 32_000)
    gradients: list[Any] = [torch.autograd.grad(total, [hidden, layer.weight]) for total in (one, other)]
    torch.testing.assert_close(one, other, rtol=close, atol=0)
    for found, expected in zip(*gradients, strict=True):
        scale = float(expected.float().abs().max())
        torch.testing.assert_close(found.float() / scale, expected.float() / scale, rtol=0, atol=close)
