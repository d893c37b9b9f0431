"""How the parts' dimensions join: encoder to connector to language model. Closed forms where parts have them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lensmith.interfaces.shapes import ConnectorShape, LanguageShape, Parameters, TileLayout, VisionShape
from lensmith.interfaces.specs import IncompatibleParts
from lensmith.parts import implementation
from lensmith_registry import Kind

if TYPE_CHECKING:
    from lensmith.spec.run import ModelSpec


SMALL_PARTS = ("connector", "image_splitter")
"""Parts that every artifact holds in full, as one file each."""
LARGE_PARTS = ("vision_encoder", "language_model")
"""Parts that an artifact holds only where they were trained; else it names where they come from."""


@dataclass(frozen=True)
class Dimensions:
    """The joined shapes of a model."""

    spec: ModelSpec
    encoder: VisionShape
    connector: ConnectorShape
    language_model: LanguageShape

    def layout(self, height: int, width: int) -> TileLayout:
        """Views and positions of one picture of that size in pixels.

        Raises:
            IncompatibleParts: the splitter cannot work with encoder or connector; names all three.
        """
        with self._named():
            return self.spec.image_splitter.layout((height, width), self.encoder, self.connector)

    def largest(self) -> TileLayout:
        """The layout of a picture that takes as many positions as any can. Raises as `layout`."""
        with self._named():
            return self.spec.image_splitter.largest(self.encoder, self.connector)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A splitter knows its neighbours by their shapes; the user knows them by name."""
        try:
            yield
        except IncompatibleParts as error:
            kinds = ("image_splitter", "vision_encoder", "connector")
            names = [f"{kind} {getattr(getattr(self.spec, kind), 'name', '')!r}" for kind in kinds]
            raise IncompatibleParts(f"{names[0]} with {names[1]} and {names[2]}: {error}") from error

    def parameters(self) -> dict[str, Parameters]:
        """Every tensor by part, unqualified."""
        return {
            "vision_encoder": self.encoder.parameters,
            "image_splitter": self.spec.image_splitter.parameters(self.language_model.width),
            "connector": self.connector.parameters,
            "language_model": tuple(
                replace(p, linear=p.linear and p.name != self.language_model.head)  # adapters leave the head alone
                for p in self.language_model.parameters
            ),
        }


def join(model: ModelSpec, *, encoder: VisionShape | None = None, language: LanguageShape | None = None) -> Dimensions:
    """Join the shapes of a model's parts.

    Args:
        model: the parts' specs.
        encoder, language: shapes that are known already.

    Raises:
        ValueError, OSError: a config that cannot work or be read.
        IncompatibleParts: two parts that do not fit.
    """
    if encoder is None:
        encoder = model.vision_encoder.shape()
    if encoder is None:
        encoder = implementation(Kind.VISION_ENCODER, model.vision_encoder).measure(model.vision_encoder)
    if language is None:
        language = model.language_model.shape()
    if language is None:
        language = implementation(Kind.LANGUAGE_MODEL, model.language_model).measure(model.language_model)
    return Dimensions(model, encoder, model.connector.shape(encoder, language.width), language)
