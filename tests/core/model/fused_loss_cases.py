"""Cases of test_fused_loss.py, collected only by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lensmith import fused, loss
from lensmith.data.batch import Batch

POSITIONS, WIDTH, VOCABULARY = 23, 8, 500


def gradients(layer: nn.Linear, hidden: Tensor, targets: Tensor, *, one_kernel: bool) -> list[Tensor]:
    """Loss and gradients, after a further factor as the engine has it."""
    total = (
        fused.fused_cross_entropy(layer, hidden, targets)
        if one_kernel
        else loss.summed_cross_entropy(layer, hidden, targets, VOCABULARY)
    )
    asked = [hidden, *(p for p in layer.parameters() if p.requires_grad)]
    return [total.detach(), *torch.autograd.grad(total * 0.37, asked)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_it_is_the_loss(bias: bool, trained: bool, dtype: torch.dtype, close: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, VOCABULARY, bias=bias, dtype=dtype).requires_grad_(trained)
    hidden = (torch.randn(POSITIONS, WIDTH) * 2).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (POSITIONS,))
    assert fused.usable(layer, hidden)
    one, other = (gradients(layer, hidden, targets, one_kernel=kernel) for kernel in (True, False))
    assert len(one) == len(other) == 2 + trained * (1 + bias)
    for found, expected in zip(one, other, strict=True):
        assert found.dtype == expected.dtype
        scale = float(expected.float().abs().max())
        torch.testing.assert_close(found.float() / scale, expected.float() / scale, rtol=0, atol=close)


def test_a_model_learns_the_same(monkeypatch: pytest.MonkeyPatch, learns_the_same: Callable[..., Batch]) -> None:
    calls: list[int] = []
    kernel = fused.fused_cross_entropy

    def counted(layer: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(targets))
        return kernel(layer, hidden, targets)

    monkeypatch.setattr("lensmith.model.fused_cross_entropy", counted)
    batch = learns_the_same([lambda on=on: monkeypatch.setenv("TRITON_INTERPRET", on) for on in ("1", "0")])
    assert calls == [batch.target_count]
