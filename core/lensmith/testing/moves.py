"""Check `moves`: a part lives in any floating type, on any device, and on none (meta)."""

from __future__ import annotations

from typing import Any

import torch

from lensmith.interfaces.module_shapes import parameter_shapes
from lensmith.testing.findings import expect, some
from lensmith.testing.kit import Kit
from lensmith.testing.subjects import LanguageSubject, ModuleSubject, promised

_NO_VALUES = ("item() cannot be called on meta tensors", "no data!")
"""What torch says of a forward that asks for a tensor's values, which says nothing of devices."""


def moves(subject: ModuleSubject, kit: Kit) -> None:
    """bf16 and fp64 on the CPU, a build on the meta device, a forward on another device."""
    case = subject.cases()[0]
    samples = subject.samples(case, 2)
    with torch.no_grad():
        plain = subject.run(subject.build(case), samples)
        for dtype in (torch.bfloat16, torch.float64):
            _dtype(subject, case, dtype, plain)
    _meta(subject, case)
    with torch.no_grad():
        _device(subject, case, samples)


def _dtype(subject: ModuleSubject, case: Any, dtype: torch.dtype, plain: list[torch.Tensor]) -> None:
    promise = f"A part that is loaded in {dtype} holds its weights in it, takes it and gives it."
    with promised(promise):
        module = subject.build(case, dtype)
        outputs = subject.run(module, [subject.moved(sample, dtype) for sample in subject.samples(case, 2)])
    other = [name for name, p in module.named_parameters() if p.is_floating_point() and p.dtype != dtype]
    expect(not other, promise, f"{some(other)} has another type.")
    for output, before in zip(outputs, plain, strict=True):
        expect(output.dtype == dtype, promise, f"Its output is {output.dtype}.")
        expect(bool(output.isfinite().all()), promise, "Its output is not finite.")
        if dtype == torch.float64 and output.shape == before.shape:
            apart, scale = float((output - before).abs().max()), max(1.0, float(before.abs().max()))
            expect(apart < 1e-3 * scale, promise, f"Its output differs from fp32's by {apart:.2g}.")


def _meta(subject: ModuleSubject, case: Any) -> None:
    promise = "A part is built on the meta device, without weights, with the very tensors that it has with them."
    with_weights = {p.name: p.shape for p in parameter_shapes(subject.build(case))}
    with promised(promise):
        if isinstance(subject, LanguageSubject):
            built = {p.name: p.shape for p in subject.implementation.measure(subject.spec).parameters}
        else:
            module = subject.skeleton(case)
            built = {p.name: p.shape for p in parameter_shapes(module)}
            real = [name for name, p in module.named_parameters() if p.device.type != "meta"]
            expect(not real, promise, f"{some(real)} was made with real memory.")
    expect(
        with_weights == built,
        promise,
        f"It has others there: {some({name for name, _ in with_weights.items() ^ built.items()})}.",
    )


def _device(subject: ModuleSubject, case: Any, samples: list[Any]) -> None:
    """On a GPU where there is one; else on the meta device, where a tensor that forward makes on the CPU is refused."""
    gpu = torch.cuda.is_available()
    if not gpu and isinstance(subject, LanguageSubject):
        return  # whether samples are packed is read off the segments, which have no values there
    device = "cuda" if gpu else "meta"
    promise = "What forward makes lies on the device of what it is given."
    with promised(promise):
        module = subject.build(case).to(device)
        try:
            outputs = subject.run(module, [subject.moved(sample, device) for sample in samples])
        except (RuntimeError, NotImplementedError) as error:
            if not gpu and any(words in str(error) for words in _NO_VALUES):
                return
            raise
    expect(
        all(output.device.type == device for output in outputs),
        promise,
        f"With everything on {device!r} an output is on {outputs[0].device.type!r}.",
    )
