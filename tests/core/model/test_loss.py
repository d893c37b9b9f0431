"""The loss in pieces: the value and the gradients of the whole, without its logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lensmith import loss
from lensmith.data.batch import Batch
from lensmith.model import MultimodalModel

POSITIONS, WIDTH, VOCABULARY = 23, 8, 40


class Adapted(nn.Module):
    """A frozen head with a trained low-rank update, a bias, a scale and a cap."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, VOCABULARY).requires_grad_(False)
        self.down, self.up = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, VOCABULARY, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh((self.base(hidden) + self.up(self.down(hidden))) / 3) * 3


HEADS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, VOCABULARY, bias=False),
    "bias": lambda: nn.Linear(WIDTH, VOCABULARY),
    "frozen": lambda: nn.Linear(WIDTH, VOCABULARY).requires_grad_(False),
    "adapted": Adapted,
}


class Largest(TorchDispatchMode):
    """The most elements that a tensor has had."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def measured(head: nn.Module, dtype: torch.dtype, *, states_train: bool = True) -> list[Tensor]:
    """Loss, then the gradients of the states and of each weight, after a further factor as the engine has it."""
    generator = torch.Generator().manual_seed(1)
    embedding = nn.Parameter(torch.randn(POSITIONS, WIDTH, generator=generator).to(dtype) * 2)
    targets = torch.randint(0, VOCABULARY, (POSITIONS,), generator=generator)
    hidden = embedding * 1.0 if states_train else embedding.detach()
    head = head.to(dtype)
    total = loss.summed_cross_entropy(head, hidden, targets, VOCABULARY)
    asked = [*([embedding] if states_train else []), *(p for p in head.parameters() if p.requires_grad)]
    return [total.detach(), *torch.autograd.grad(total * 0.37, asked)]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-6), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str, close: float) -> None:
    torch.manual_seed(0)
    head = HEADS[kind]()
    whole = measured(head, getattr(torch, dtype))
    for pieces in (5, 1, POSITIONS - 1):
        monkeypatch.setattr(loss, "PIECE", pieces * VOCABULARY)
        for found, expected in zip(measured(head, getattr(torch, dtype)), whole, strict=True):
            assert found.dtype == expected.dtype
            scale = float(expected.float().abs().max())
            torch.testing.assert_close(found.float() / scale, expected.float() / scale, rtol=0, atol=close)


def test_states_that_do_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    head = HEADS["bias"]()
    whole = measured(head, torch.float32, states_train=False)
    monkeypatch.setattr(loss, "PIECE", 5 * VOCABULARY)
    for found, expected in zip(measured(head, torch.float32, states_train=False), whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_logits_of_all_positions_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    head = HEADS["linear"]()
    with Largest() as largest:
        measured(head, torch.float32)
    assert largest.elements == POSITIONS * VOCABULARY
    monkeypatch.setattr(loss, "PIECE", 4 * VOCABULARY)
    for dtype in (torch.float32, torch.float16):
        with Largest() as largest:
            measured(head, dtype)
        assert largest.elements <= WIDTH * VOCABULARY  # the weight itself


def test_nothing_trains_and_nothing_is_supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    head = HEADS["linear"]()
    hidden, targets = torch.randn(POSITIONS, WIDTH), torch.arange(POSITIONS)
    expected = F.cross_entropy(head(hidden), targets, reduction="sum")
    monkeypatch.setattr(loss, "PIECE", 4 * VOCABULARY)
    with torch.no_grad():
        torch.testing.assert_close(loss.summed_cross_entropy(head, hidden, targets, VOCABULARY), expected)
    head.requires_grad_(False)
    assert not loss.summed_cross_entropy(head, hidden, targets, VOCABULARY).requires_grad
    assert loss.summed_cross_entropy(head, hidden[:0], targets[:0], VOCABULARY) == 0


def test_a_model_learns_the_same(
    monkeypatch: pytest.MonkeyPatch, model: MultimodalModel, learns_the_same: Callable[..., Batch]
) -> None:
    pieces = (1 << 24, 3 * model.language_model.shape.vocabulary)
    learns_the_same([lambda piece=piece: monkeypatch.setattr(loss, "PIECE", piece) for piece in pieces])
