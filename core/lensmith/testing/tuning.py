"""The checks of tuners: on a whole tiny model, what trains is exactly what the spec says, and nothing else moves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import lensmith
from lensmith.dims import join
from lensmith.interfaces.module_shapes import parameter_shapes
from lensmith.model import MultimodalModel
from lensmith.testing.findings import NotApplicable, expect, some
from lensmith.testing.keeping import pass_on, saved, train_and_save, with_encoder
from lensmith.testing.kit import Kit
from lensmith.testing.models import batch, model_spec
from lensmith.testing.subjects import SEED, Subject, promised
from lensmith_registry import Kind


def prepared(subject: Subject, kit: Kit, dtype: torch.dtype = torch.float32) -> tuple[MultimodalModel, Any]:
    """A fresh model that wears the tuner, and the tuner.

    Raises:
        NotApplicable: something that the tuner needs is not here.
    """
    if unmet := subject.spec.unmet(zero=0):
        raise NotApplicable("; ".join(unmet))
    tuner = subject.implementation(subject.spec)
    with promised("A tuner lets a model be assembled and prepares it."):
        model = lensmith.assemble(model_spec(kit, subject), tuner=tuner, dtype=dtype, seed=SEED)
        torch.manual_seed(SEED)
        tuner.prepare(model)
    return model, tuner


def _declared(subject: Subject, kit: Kit) -> dict[str, tuple[int, ...]]:
    trained = subject.spec.trainable(join(model_spec(kit, subject)).parameters())
    return {parameter.name: parameter.shape for parameter in trained}


def shape(subject: Subject, kit: Kit) -> None:
    """The list of what trains: names and dimensions."""
    model, _ = prepared(subject, kit)
    declared = _declared(subject, kit)
    actual = {p.name: p.shape for p in parameter_shapes(model)}
    promise = "`trainable` of the spec names tensors as they are after `prepare`, with their dimensions."
    if absent := declared.keys() - actual.keys():
        expect(False, promise, f"The model has no {some(absent)}.")
    for name, size in declared.items():
        expect(actual[name] == size, promise, f"{name} is declared as {size}, and it is {actual[name]}.")


def gradients(subject: Subject, kit: Kit) -> None:
    """`trainable`, `requires_grad`, the groups and the gradients of a step are one and the same set."""
    model, tuner = prepared(subject, kit)
    declared = set(_declared(subject, kit))
    required = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    _equal(declared, required, "`prepare` sets requires_grad of exactly what the spec says that it trains.", "prepare")
    grouped = [name for group in tuner.groups(model) for name in group.names]
    twice = {name for name in grouped if grouped.count(name) > 1}
    promise = "The groups hold exactly what trains, each tensor once."
    expect(not twice, promise, f"{some(twice)} is in two groups.")
    _equal(required, set(grouped), promise, "the groups")
    model.train()
    model(batch(model, pictures=True)).backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    _equal(required, reached, "A step gives a gradient to exactly what trains.", "a step")


def _equal(wanted: set[str], found: set[str], promise: str, who: str) -> None:
    lacking, more = wanted - found, found - wanted
    expect(not lacking, promise, f"{who} left out {some(lacking)}.")
    expect(not more, promise, f"{who} also had {some(more)}.")


def frozen(subject: Subject, kit: Kit) -> None:
    """A step of the optimiser moves what trains and not one bit of the rest."""
    model, tuner = prepared(subject, kit)
    before = {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}
    by_name = dict(model.named_parameters())
    trains = {name for group in tuner.groups(model) for name in group.names}
    trained = [by_name[name] for name in sorted(trains)]
    model.train()
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(2):  # the first step of an adapter that starts at zero reaches one of its halves alone
        optimizer.zero_grad()
        model(batch(model, pictures=True)).backward()
        optimizer.step()
    after = _tensors(model)
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    expect(not changed - trains, "What does not train stays as it is, bit by bit.", f"{some(changed - trains)} moved.")
    still = trains - changed
    expect(not still, "Everything that trains moves.", f"{some(still)} did not in two steps.")


def _tensors(model: MultimodalModel) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def save(subject: Subject, kit: Kit) -> None:
    """An artifact of a trained model, read back by `lensmith.load`; with every encoder that the tuner can train."""
    if unmet := subject.spec.unmet(zero=0):
        raise NotApplicable("; ".join(unmet))
    saved(kit, model_spec(kit, subject), subject.implementation, subject.spec)
    tuner = subject.spec.training("vision_encoder")
    for encoder in kit.own(Kind.VISION_ENCODER) if tuner is not None else ():
        with_encoder(kit, kit.subject(encoder), subject.implementation, tuner)


def handed_on(subject: Subject, kit: Kit) -> None:
    """What the tuner trained is there after a stage with another tuner, and after `lensmith merge`."""
    if unmet := subject.spec.unmet(zero=0):
        raise NotApplicable("; ".join(unmet))
    spec = model_spec(kit, subject)
    pass_on(kit, train_and_save(kit, spec, subject.implementation, subject.spec))


def moves(subject: Subject, kit: Kit) -> None:
    """bf16: the loss is finite and gradients come through."""
    model, _ = prepared(subject, kit, torch.bfloat16)
    model.train()
    with promised("A tuner works on a model in bf16."):
        loss = model(batch(model, pictures=True))
        loss.backward()
    expect(bool(loss.isfinite()), "A tuner works on a model in bf16.", f"The loss is {loss.detach()}.")


def seed(subject: Subject, kit: Kit) -> None:
    """Prepared twice after one seed: the same weights, the same loss."""
    (one, _), (other, _) = prepared(subject, kit), prepared(subject, kit)
    tensors = _tensors(other)
    apart = [name for name, tensor in _tensors(one).items() if not torch.equal(tensor, tensors[name])]
    expect(not apart, "The same seed gives the same weights.", f"Prepared twice after one seed, {some(apart)} differ.")
    with torch.no_grad():
        losses = {float(model.eval()(batch(one, pictures=True))) for model in (one, one, other)}
    expect(len(losses) == 1, "In evaluation mode the same input gives the same loss.", f"It was {some(losses)}.")
