"""Check `batch`: what stands in a batch together does not see each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lensmith.interfaces.modes import moving_statistics
from lensmith.testing.findings import expect, some
from lensmith.testing.kit import Kit
from lensmith.testing.subjects import LanguageSubject, ModuleSubject

_PROMISE = "Each output of a batch is what its input gives alone."
_TOLERANCE = 1e-4


def batch(subject: ModuleSubject, kit: Kit) -> None:
    """A batch of several against each on its own; texts also padded on the left and packed into one row."""
    for case in subject.cases():
        module, samples = subject.build(case), subject.samples(case, 4)
        with torch.no_grad():
            alone = [subject.run(module, [sample])[0] for sample in samples]
            _same(alone, subject.run(module, samples), "in a batch")
            if isinstance(subject, LanguageSubject):
                _texts(subject, module, samples, alone)
            if any(True for _ in module.parameters()):
                _training(subject, module, samples)


def _training(subject: ModuleSubject, module: nn.Module, samples: list[Any]) -> None:
    """The same in training mode: a batch norm there takes the statistics of whatever stands in the batch."""
    promise = (
        "While all of a part trains, too, each output of a batch is what its input gives alone; else losses depend on"
        " batch.micro and on how many processes share a batch."
    )
    module.requires_grad_(True).train()
    for child in module.modules():
        if isinstance(child, nn.modules.dropout._DropoutNd):
            child.eval()
    guilty = [name for name, _ in moving_statistics(module)]
    told = f" Batch norms: {some(guilty)}; keep them in evaluation mode in train()." if guilty else ""
    try:
        alone = [subject.run(module, [sample])[0] for sample in samples]
        again = [subject.run(module, [sample])[0] for sample in samples]
        if not guilty and any(not torch.equal(one, other) for one, other in zip(alone, again, strict=True)):
            return  # it draws random numbers, and there is nothing to compare
        together = subject.run(module, samples)
    except ValueError as error:  # what torch says of one value to take statistics of
        expect(not guilty, promise, f"It raised {error}.{told}")
        raise
    finally:
        module.eval()
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        apart, scale = float((one - other).abs().max()), max(1.0, float(one.abs().max()))
        seen = f"Number {number} of {len(alone)} differs by up to {apart:.2g} in training mode.{told}"
        expect(apart <= _TOLERANCE * scale, promise, seen)


def _texts(subject: LanguageSubject, module: Any, samples: list[Tensor], alone: list[Tensor]) -> None:
    rows = subject.logits(module, [[sample] for sample in samples], left=True)
    _same(alone, [row[len(row) - len(text) :] for row, text in zip(rows, samples, strict=True)], "padded on the left")
    packed = subject.logits(module, [samples, samples[:1]])[0]
    _same(alone, list(torch.split(packed[: sum(map(len, samples))], [*map(len, samples)])), "packed into one row")


def _same(alone: list[Tensor], together: list[Tensor], how: str) -> None:
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        expect(one.shape == other.shape, _PROMISE, f"Alone it is {tuple(one.shape)}, {how} {tuple(other.shape)}.")
        apart = float((one - other).abs().max()) if one.numel() else 0.0
        scale = max(1.0, float(one.abs().max())) if one.numel() else 1.0
        expect(
            apart <= _TOLERANCE * scale,
            _PROMISE,
            f"Number {number} of {len(alone)} differs by up to {apart:.2g} {how} (outputs are up to {scale:.2g}).",
        )
