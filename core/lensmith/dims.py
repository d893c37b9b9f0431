"""How the parts' dimensions join: encoder to connector to language model. Closed forms where parts have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lensmith.errors import LensmithError
from lensmith.interfaces.shapes import ConnectorShape, LanguageShape, Parameters, TileLayout, VisionShape
from lensmith.interfaces.specs import ConnectorSpec, IncompatibleParts, LanguageModelSpec, VisionEncoderSpec
from lensmith.parts import asked, implementation
from lensmith_registry import Kind, PartSpec

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
            splitter = self.spec.image_splitter
            call = partial(splitter.layout, (height, width), self.encoder, self.connector)
            found: TileLayout = _required(Kind.IMAGE_SPLITTER, splitter, "layout()", TileLayout, call)
            return found

    def largest(self) -> TileLayout:
        """The layout of a picture that takes as many positions as any can. Raises as `layout`."""
        with self._named():
            splitter = self.spec.image_splitter
            call = partial(splitter.largest, self.encoder, self.connector)
            found: TileLayout = _required(Kind.IMAGE_SPLITTER, splitter, "largest()", TileLayout, call)
            return found

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
            "language_model": self.language_model.marked(self.language_model.parameters),
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
    seen = encoder or shape_of(Kind.VISION_ENCODER, model.vision_encoder)
    read = language or shape_of(Kind.LANGUAGE_MODEL, model.language_model)
    assert isinstance(seen, VisionShape)
    assert isinstance(read, LanguageShape)
    connector = connector_shape(model.connector, seen, read.width)
    assert connector is not None
    return Dimensions(model, seen, connector, read)


def connector_shape(
    part: ConnectorSpec, encoder: VisionShape, width: int, *, measure: bool = True
) -> ConnectorShape | None:
    """The shape of a connector between an encoder and a language model of width D.

    Args:
        part, encoder, width: which, and what is around it.
        measure: as of `shape_of`.

    Raises:
        IncompatibleParts: they do not fit.
        LensmithError: the part's own code is at fault; names its package.
    """
    call = partial(part.shape, encoder, width)
    shape: ConnectorShape | None = asked(Kind.CONNECTOR, part, "shape()", ConnectorShape, call)
    if shape is None and measure:
        built = partial(implementation(Kind.CONNECTOR, part).measure, part, encoder, width)
        shape = _required(Kind.CONNECTOR, part, "measure()", ConnectorShape, built)
    return shape


def shape_of(
    kind: Kind, part: VisionEncoderSpec | LanguageModelSpec, *, measure: bool = True
) -> VisionShape | LanguageShape | None:
    """The shape of an encoder or a language model.

    Args:
        kind, part: which.
        measure: build a part without closed forms on the meta device (imports torch); else it has no shape here.

    Raises:
        ValueError, OSError: a config that cannot work or be read.
        LensmithError: the part's own code is at fault; names its package.
    """
    expected = VisionShape if kind == Kind.VISION_ENCODER else LanguageShape
    shape: VisionShape | LanguageShape | None = asked(kind, part, "shape()", expected, part.shape)
    if shape is None and measure:
        shape = _required(kind, part, "measure()", expected, lambda: implementation(kind, part).measure(part))
    return shape


def _required(kind: Kind, part: PartSpec, method: str, expected: type, call: Callable[[], Any]) -> Any:
    answer = asked(kind, part, method, expected, call)
    if answer is None:
        raise LensmithError(f"{kind} {getattr(part, 'name', type(part).__name__)!r}: {method} returned None")
    return answer


def untrained_rows(parts: dict[str, Parameters], trainable: Parameters) -> str:
    """That the rows of added tokens stay what they are in a stage; empty where there are none, or they train.

    Args:
        parts: every tensor by part.
        trainable: what the stage's tuner trains.
    """
    added = max((tensor.added for tensor in parts["language_model"]), default=0)
    if not added or any(tensor.added for tensor in trainable):
        return ""
    return (
        f"the embeddings of the {added} tokens that add_tokens adds do not train and stay what they are (at first the"
        " mean of all); set the tuner's added_tokens: true to train them"
    )
