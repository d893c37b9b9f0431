"""Checks `gradients` and `frozen` of modules: all that trains is reached, and nothing moves that does not train."""

from __future__ import annotations

import torch
from torch import nn

from lensmith.interfaces import Connector, LanguageModel, VisionEncoder
from lensmith.testing.findings import NotApplicable, expect, some
from lensmith.testing.kit import Kit
from lensmith.testing.subjects import ModuleSubject


def gradients(subject: ModuleSubject, kit: Kit) -> None:
    """Where all of a part trains, each of its parameters gets a gradient: else ZeRO waits for it, or it never moves."""
    for case in subject.cases():
        module = _with_weights(subject.build(case))
        module.requires_grad_(True).train()
        outputs = subject.run(module, subject.samples(case, 3))
        generator = subject.generator()
        loss = torch.stack([(output * torch.randn(output.shape, generator=generator)).sum() for output in outputs])
        torch.autograd.backward(loss.sum())
        promise = (
            "Every parameter of a part that trains gets a finite gradient; what the output does not need is not built."
        )
        unreached = [name for name, p in module.named_parameters() if p.grad is None]
        expect(not unreached, promise, f"None reached {some(unreached)}.")
        odd = [n for n, p in module.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        expect(not odd, promise, f"That of {some(odd)} is not finite.")


def frozen(subject: ModuleSubject, kit: Kit) -> None:
    """A frozen part keeps its weights and buffers while the rest of the model trains."""
    case = subject.cases()[0]
    module = _with_weights(subject.build(case))
    module.requires_grad_(False).train()
    if isinstance(module, (VisionEncoder, Connector, LanguageModel)):
        inside = [name for name, child in module.named_modules() if child.training]
        expect(
            not inside,
            "A wholly frozen part stays in evaluation mode, without dropout or moving statistics.",
            f"After train(), {some(name or 'the part itself' for name in inside)} was in training mode.",
        )
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for _ in range(2):
        subject.run(module, subject.samples(case, 3))
    after = module.state_dict()
    moved = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    expect(not moved, "A frozen part's weights and buffers stay what they are.", f"forward changed {some(moved)}.")
    trains = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    expect(not trains, "Nothing but the tuner says what trains.", f"forward or train() unfroze {some(trains)}.")


def _with_weights(module: nn.Module) -> nn.Module:
    if not any(True for _ in module.parameters()):
        raise NotApplicable("it has no weights")
    return module
