"""Check `save` of modules: trained weights written, read back, and the same output, the original files out of reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensmith.testing.findings import NotApplicable, expect, some
from lensmith.testing.kit import Kit
from lensmith.testing.subjects import (
    ConnectorSubject,
    EncoderSubject,
    LanguageSubject,
    ModuleSubject,
    picture,
    promised,
)
from lensmith.testing.tiny import scatter
from lensmith_registry import Kind

_EQUAL = "What was saved and loaded gives the very output that it gave before."
_TEXT = "USER: What colour is it? It is red, très bien."


def small(subject: ModuleSubject, kit: Kit) -> None:
    """Connector and splitter: the artifact holds their tensors, and a folder with what else they read."""
    from safetensors.torch import load_file, save_file

    case = subject.cases()[0]
    trained = _trained(subject, case)
    folder = kit.folder()
    file = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in trained.state_dict().items()}, file)
    spec = subject.spec
    if isinstance(subject, ConnectorSubject):
        (folder / "files").mkdir()
        trained.save(folder / "files")  # type: ignore[operator]
        if any((folder / "files").iterdir()):
            spec = spec.relocated(folder / "files")
    samples = subject.samples(case, 3)
    before = _outputs(subject, trained, samples)
    with (
        _out_of_reach(subject.home),
        promised("An artifact's connector is built without the files that it began from."),
    ):
        torch.manual_seed(1)
        again = subject.make(spec, case, torch.float32, False).eval()
        again.load_state_dict(load_file(file))
    _same(before, _outputs(subject, again, samples))


def encoder(subject: EncoderSubject, kit: Kit) -> None:
    """`save`, then `relocated`."""
    trained = _trained(subject, None)
    pixels = subject.samples(None, 2)
    before = _outputs(subject, trained, pixels)
    shown = picture(57, 31)
    prepared = subject.implementation.preprocessing(subject.spec)(shown)
    again, spec = _again(subject, trained, kit)
    _same(before, _outputs(subject, again, pixels))
    expect(
        again.shape == trained.shape,
        "A saved encoder has the shape that it had.",
        f"It was {trained.shape.grid}, W {trained.shape.width}, and is {again.shape.grid}, W {again.shape.width}.",  # type: ignore[union-attr]
    )
    expect(
        torch.equal(prepared, subject.implementation.preprocessing(spec)(shown)),
        "A saved encoder prepares pictures as before.",
        "The pixels of a picture were others after loading.",
    )
    _tuned(subject, kit)


def _tuned(subject: EncoderSubject, kit: Kit) -> None:
    """Every tuner of the project that can train it: trained for a few steps, saved, loaded, equal, buffers included."""
    from lensmith.testing.keeping import with_encoder
    from lensmith_registry.hooks import PROJECT

    if subject.component.distribution == PROJECT:
        return  # each tuner's own check trains them
    for component in kit.own(Kind.TUNER):
        tuner = kit.subject(component)
        spec = tuner.spec.training("vision_encoder")
        if spec is not None and not spec.unmet(zero=0):
            with_encoder(kit, subject, tuner.implementation, spec)


def language_model(subject: LanguageSubject, kit: Kit) -> None:
    """`save`, then `relocated`; the tokenizer goes with it, and alone by `with_tokenizer`."""
    trained: Any = _trained(subject, None)
    texts = subject.samples(None, 3)
    before = _outputs(subject, trained, texts)
    ids = trained.tokenizer.encode(_TEXT, after="start")
    apart = kit.folder()
    trained.tokenizer.save(apart)
    again, _ = _again(subject, trained, kit)
    _same(before, _outputs(subject, again, texts))
    relocated = subject.implementation.load_tokenizer(subject.spec.with_tokenizer(apart))
    for name, tokenizer in (("saved with the model", again.tokenizer), ("saved alone", relocated)):
        expect(
            tokenizer.encode(_TEXT, after="start") == ids and tokenizer.eos_id == trained.tokenizer.eos_id,
            "A saved tokenizer gives the ids that it gave before.",
            f"The tokenizer that was {name} gives others for {_TEXT!r}.",
        )


def _trained(subject: ModuleSubject, case: Any) -> nn.Module:
    module = subject.build(case)
    if not module.state_dict():
        raise NotApplicable("it has no weights")
    torch.manual_seed(3)
    return scatter(module, 0.05)


def _again(subject: ModuleSubject, trained: Any, kit: Kit) -> tuple[Any, Any]:
    folder = kit.folder()
    try:
        trained.save(folder)
        spec = subject.spec.relocated(folder)
    except NotImplementedError as error:
        raise NotApplicable(f"it cannot be trained: {error}") from error
    with _out_of_reach(subject.home), promised("`relocated` names the saved folder and needs nothing else."):
        return subject.build(None, spec=spec), spec


def _outputs(subject: ModuleSubject, module: nn.Module, samples: Sequence[Any]) -> list[Tensor]:
    with torch.no_grad():
        return subject.run(module, samples)


def _same(before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    apart = [float((a - b).abs().max()) for a, b in zip(before, after, strict=True) if a.shape == b.shape]
    sizes = [f"{tuple(a.shape)} and {tuple(b.shape)}" for a, b in zip(before, after, strict=True) if a.shape != b.shape]
    expect(not sizes, _EQUAL, f"Its outputs were {some(sizes)}.")
    expect(max(apart) <= 1e-6, _EQUAL, f"Outputs differ by up to {max(apart):.2g}.")


@contextmanager
def _out_of_reach(home: Path) -> Iterator[None]:
    """The files of the tiny spec are gone for a while, as a user's may be."""
    aside = home.with_name(f"{home.name}-aside")
    home.rename(aside)
    try:
        yield
    finally:
        aside.rename(home)
