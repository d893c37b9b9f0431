"""Image splitters that make one view of a picture: `square` crops it, `pad` keeps all of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensmith import Component, ConnectorShape, ImageSplitterSpec, Kind, Size, TileLayout, VisionShape, hookimpl

__all__ = ["PadSpec", "SquareSpec", "api_version", "lensmith_components"]

api_version = 1

Channel = Annotated[int, Field(ge=0, le=255)]


class SingleViewSpec(ImageSplitterSpec):
    """A splitter whose only view is the whole picture."""

    def layout(self, image_size: Size, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """One view, and as many positions as the connector makes of it."""
        return TileLayout(views=1, tokens=connector.tokens, image_size=image_size, canvas=encoder.image_size)


class SquareSpec(SingleViewSpec):
    """The picture as it is: the encoder resizes its shortest edge and crops the centre, losing the longer ends."""


class PadSpec(SingleViewSpec):
    """The picture centred on a square of its longer side, so that nothing is cropped."""

    color: tuple[Channel, Channel, Channel] | None = None
    """Red, green and blue of the border, 0..255. Default none: the encoder's mean colour."""


@hookimpl
def lensmith_components() -> list[Component]:
    """The image splitters of this package."""
    return [
        Component(
            kind=Kind.IMAGE_SPLITTER,
            name="square",
            spec=SquareSpec,
            implementation="lensmith_plugins.image_splitters.single_view:SquareSplitter",
            summary="one view, the picture's centre square",
        ),
        Component(
            kind=Kind.IMAGE_SPLITTER,
            name="pad",
            spec=PadSpec,
            implementation="lensmith_plugins.image_splitters.single_view:PadSplitter",
            summary="one view, the whole picture padded to a square (LLaVA-1.5)",
        ),
    ]
