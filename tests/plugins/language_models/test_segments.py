"""Attention over samples that lie end to end: which way computes it, and that every way computes the same."""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lensmith_plugins.language_models import segments


class OnGpu(torch.Tensor):
    """A tensor of the CPU that says it is on a GPU, as what is computed from it does."""

    is_cuda = property(lambda self: True)  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def unasked() -> Iterator[None]:
    """Nobody has asked for the kernel yet."""
    segments._kernel_agrees.cache_clear()
    yield
    segments._kernel_agrees.cache_clear()


def drawn(bounds: list[int], heads: int, kv_heads: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, n, bounds[-1], 16, dtype=dtype).requires_grad_() for n in (heads, kv_heads, kv_heads)]


def with_gradients(attend: Any, tensors: list[Tensor]) -> list[Tensor]:
    output = attend(*tensors)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    return [output, *torch.autograd.grad((output * weights).sum(), tensors)]


def lengths(seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.choice([1, 2, 3, 30, 33, 40, 41, 100]) for _ in range(chance.randint(1, 9))]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_side_by_side_is_one_by_one(seed: int, heads: int, kv_heads: int, scale: float | None) -> None:
    bounds = [0, *accumulate(lengths(seed))]
    tensors = drawn(bounds, heads, kv_heads)
    expected = with_gradients(lambda *t: segments._one_by_one(*t, bounds, 0, scale, 0.0), tensors)
    found = with_gradients(lambda *t: segments._side_by_side(*t, bounds, scale), tensors)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_side_by_side_rounds_no_more_than_one_by_one() -> None:
    bounds = [0, 20, 57, 90]
    half = drawn(bounds, 6, 2, torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in half]
    truth = with_gradients(lambda *t: segments._one_by_one(*t, bounds, 0, None, 0.0), exact)
    ways = (
        with_gradients(lambda *t: segments._side_by_side(*t, bounds, None), half),
        with_gradients(lambda *t: segments._one_by_one(*t, bounds, 0, None, 0.0), half),
    )
    ours, theirs = ([float((a.double() - b).norm()) for a, b in zip(way, truth, strict=True)] for way in ways)
    assert all(one <= 1.02 * other for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("window", "dropout", "before", "learns", "way"),
    [
        (0, 0.0, 0, True, "_side_by_side"),
        (200, 0.0, 0, True, "_side_by_side"),  # a window that none reaches
        (5, 0.0, 0, True, "_one_by_one"),
        (0, 0.1, 0, True, "_one_by_one"),
        (0, 0.0, 3, True, "_one_by_one"),  # keys that every sample sees
        (0, 0.0, 0, False, "_one_by_one"),
    ],
)
def test_which_way(
    window: int, dropout: float, before: int, learns: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = [0, 20, 57, 90]
    query, key, value = drawn(bounds, 4, 2)
    key, value = (torch.cat([t[:, :, :before], t], dim=2) for t in (key, value))
    if not learns:
        query, key, value = (t.detach() for t in (query, key, value))
    taken = []
    for name in ("_side_by_side", "_one_by_one"):
        real = getattr(segments, name)
        monkeypatch.setattr(segments, name, lambda *a, _real=real, _name=name: taken.append(_name) or _real(*a))
    segments._attend(query, key, value, segments.borders(bounds[:-1], window or None), None, dropout)
    assert taken == [way]


def on_gpu(monkeypatch: pytest.MonkeyPatch, kernel: Any = None) -> list[str]:
    """Attention takes every tensor to be on a GPU, whose kernel is `kernel`; returns what it will be asked for."""
    real, asked = segments._attend, []

    def attend(query: Tensor, *rest: Any) -> Tensor:
        return real(query.as_subclass(OnGpu), *rest).as_subclass(torch.Tensor)

    def by_kernel(*arguments: Any) -> Tensor:
        asked.append("kernel")
        return (kernel or segments._without_dropout)(*arguments)

    monkeypatch.setattr(segments, "_attend", attend)
    monkeypatch.setattr(segments, "_by_kernel", by_kernel)
    return asked


class Block(nn.Module):
    """Queries, keys and values of one input, and attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(64, 3 * 64, dtype=torch.bfloat16)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.inner(hidden).view(1, -1, 3, 4, 16).permute(2, 0, 3, 1, 4)
        mask = segments.borders([0, 20])
        output: Tensor = segments.segment_attention(self, query, key, value, mask)[0]
        return output.flatten(2)


def test_asking_for_the_kernel_inside_of_a_checkpoint_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first forward asks, the recomputation does not: both must save the same tensors."""
    block, hidden = Block(), torch.randn(1, 50, 64, dtype=torch.bfloat16)
    plain = torch.autograd.grad(block(hidden).sum(), [*block.parameters()])
    asked = on_gpu(monkeypatch)
    inputs = hidden.clone().requires_grad_()
    output = checkpoint(block, inputs, use_reentrant=False)
    output.sum().backward()
    assert len(asked) == 3  # the look, the forward, the recomputation
    for parameter, expected in zip(block.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("mode", ["inference", "no_grad", "autocast"])
def test_the_look_is_the_same_wherever_it_is_asked_for(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu(monkeypatch)
    modes = {
        "inference": torch.inference_mode(),
        "no_grad": torch.no_grad(),
        "autocast": torch.autocast("cpu", dtype=torch.float16),
    }
    with modes[mode]:
        assert segments._kernel_agrees(torch.device("cpu"), torch.bfloat16, 4, 2, 16, False)


@pytest.mark.parametrize("fault", [TypeError("unexpected argument"), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_fault_is_not_taken_for_a_kernel_that_is_not_there(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> Tensor:
        raise fault

    on_gpu(monkeypatch, fails)
    with pytest.raises(type(fault)):
        Block()(torch.randn(1, 50, 64, dtype=torch.bfloat16))
    on_gpu(monkeypatch)  # nothing was remembered of it
    assert segments._kernel_agrees(torch.device("cpu"), torch.bfloat16, 4, 4, 16, False)


@pytest.mark.parametrize("reason", [RuntimeError("head width 16 is not supported"), NotImplementedError("no kernel")])
def test_a_kernel_that_says_no_is_not_used(reason: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*arguments: Any) -> Tensor:
        raise reason

    asked = on_gpu(monkeypatch, refuses)
    output = Block()(torch.randn(1, 50, 64, dtype=torch.bfloat16))
    assert output.shape == (1, 50, 64)
    assert asked == ["kernel"]


def test_a_kernel_that_computes_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu(monkeypatch, lambda *arguments: 1.5 * segments._without_dropout(*arguments))
    assert not segments._kernel_agrees(torch.device("cpu"), torch.bfloat16, 4, 4, 16, False)


@pytest.mark.parametrize(("known", "heads", "there"), [(False, 4, True), (False, 8, False), (True, 8, True)])
def test_fewer_heads_of_keys_are_only_spoken_of_where_there_are(
    known: bool, heads: int, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch 2.11 has the kernel without `enable_gqa`."""

    def old(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):  # type: ignore[no-untyped-def]
        bounds = cu_seq_q.tolist()
        rows = [t.transpose(0, 1)[None] for t in (q, k, v)]
        return segments._one_by_one(*rows, bounds, window_size[0] + 1, scale, 0.0)[0]

    def new(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):  # type: ignore[no-untyped-def]
        assert enable_gqa == (q.shape[1] != k.shape[1])
        return old(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)

    module = types.ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = new if known else old  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    assert segments._kernel_agrees(torch.device("cpu"), torch.bfloat16, heads, 4, 16, False) is there


def test_sdpa_is_told_of_fewer_heads_of_keys_only_where_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    real = F.scaled_dot_product_attention

    def watched(*arguments: Any, **named: Any) -> Tensor:
        given.append("enable_gqa" in named)
        return real(*arguments, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    bounds = [0, 4, 20]
    for kv_heads in (4, 2):
        tensors = drawn(bounds, 4, kv_heads)
        segments._one_by_one(*tensors, bounds, 0, None, 0.0)
        segments._side_by_side(*tensors, bounds, None)
    # Two samples one by one; side by side a batch each, since their lengths differ too much.
    assert given == [False] * 4 + [True] * 4
