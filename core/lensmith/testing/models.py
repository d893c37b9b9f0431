"""Whole models around one part under test: its neighbours are the project's own parts, tiny, the first that fit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.dims import join
from lensmith.errors import LensmithError
from lensmith.interfaces.specs import IncompatibleParts
from lensmith.spec.run import ModelSpec
from lensmith.testing.findings import NotApplicable
from lensmith.testing.subjects import picture
from lensmith_registry import Kind

if TYPE_CHECKING:
    from lensmith.data.batch import Batch
    from lensmith.model import MultimodalModel
    from lensmith.testing.kit import Kit
    from lensmith.testing.subjects import Subject

_PICTURE = (70, 50)
"""(width, height) of the pictures that models are shown."""


def model_spec(kit: Kit, subject: Subject) -> ModelSpec:
    """The spec of a tiny model with the part in it, or of any tiny model for a tuner.

    Raises:
        NotApplicable: no neighbours fit; says what the last ones refused.
    """
    refused = "no other parts are installed"
    for parts in _neighbours(kit, subject):
        model = ModelSpec(**parts)
        try:
            dimensions = join(model)
            dimensions.layout(*reversed(_PICTURE))
        except IncompatibleParts as error:
            refused = str(error)
            continue
        if subject.kind == Kind.CONNECTOR or dimensions.connector.parameters:
            return model
    raise NotApplicable(f"no installed neighbours fit it; the last ones say: {refused}")


def tiny_models(kit: Kit) -> Iterator[ModelSpec]:
    """Tiny models of the project's own parts that fit together, for formats to choose from."""
    own = {
        kind: [kit.subject(component).spec for component in kit.own(kind) if not kit.unusable(component)]
        for kind in (Kind.VISION_ENCODER, Kind.LANGUAGE_MODEL, Kind.IMAGE_SPLITTER, Kind.CONNECTOR)
    }
    for encoder, language_model, splitter, connector in itertools.product(*own.values()):
        model = ModelSpec(
            vision_encoder=encoder, image_splitter=splitter, connector=connector, language_model=language_model
        )
        try:
            dimensions = join(model)
            dimensions.layout(*reversed(_PICTURE))
        except IncompatibleParts:
            continue
        if dimensions.connector.parameters:
            yield model


def tiny_model(folder: Path) -> ModelSpec:
    """A whole model of Lensmith's own parts at their smallest, with random weights, for a format's `tiny`.

    Args:
        folder: an empty folder, in which the parts' checkpoints are written.
    """
    from lensmith.spec.build import installed, part_class
    from lensmith_registry.hooks import PROJECT

    registry = installed()

    def parts(kind: Kind) -> Iterator[Any]:
        for component in registry.components(kind):
            if component.distribution == PROJECT:
                home = folder / kind.value / component.name
                home.mkdir(parents=True, exist_ok=True)
                yield part_class(kind, component.name, registry).tiny(home)

    encoder, language_model = next(parts(Kind.VISION_ENCODER)), next(parts(Kind.LANGUAGE_MODEL))
    for splitter, connector in itertools.product(parts(Kind.IMAGE_SPLITTER), list(parts(Kind.CONNECTOR))):
        model = ModelSpec(
            vision_encoder=encoder, image_splitter=splitter, connector=connector, language_model=language_model
        )
        try:
            if join(model).connector.parameters:
                return model
        except IncompatibleParts:
            continue
    raise LensmithError("no tiny model of the installed parts fits together")


def _neighbours(kit: Kit, subject: Subject) -> Iterator[dict[str, Any]]:
    for encoder in _choices(kit, subject, Kind.VISION_ENCODER):
        for language_model in _choices(kit, subject, Kind.LANGUAGE_MODEL):
            for splitter in _choices(kit, subject, Kind.IMAGE_SPLITTER):
                for connector in _choices(kit, subject, Kind.CONNECTOR):
                    yield {
                        "vision_encoder": encoder,
                        "image_splitter": splitter,
                        "connector": connector,
                        "language_model": language_model,
                    }


def _choices(kit: Kit, subject: Subject, kind: Kind) -> Iterator[Any]:
    if subject.kind == kind:
        yield subject.spec
        return
    for component in kit.own(kind):
        yield kit.subject(component).spec


def batch(model: MultimodalModel, *, pictures: bool) -> Batch:
    """Two rows, in each a picture (of two sizes) and a text that is half learnt, or the text alone."""
    import torch

    from lensmith.data.batch import collate
    from lensmith.data.encode import Encoded
    from lensmith.data.sample import expand
    from lensmith.interfaces.text import IMAGE_ID

    samples = []
    vocabulary, pad = model.language_model.shape.vocabulary, model.language_model.tokenizer.pad_id
    generator = torch.Generator().manual_seed(9)
    for number, length in enumerate((12, 9)):
        ids = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
        if pictures:
            width, height = _PICTURE
            size = (height, width) if number else (width, height)
            shown = [model.pictures.prepare(picture(*size), "what is it?")]
            encoded = Encoded([IMAGE_ID, *ids], [(5, length + 1)], "")
        else:
            shown, encoded = [], Encoded(ids, [(4, length)], "")
        samples.append(expand(str(number), encoded, shown, pad))
    return collate(samples, pad)
