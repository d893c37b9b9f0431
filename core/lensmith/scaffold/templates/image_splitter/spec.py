"""What a spec file may say of the splitter, and its exact geometry. Every command imports this: no torch here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensmith import (
    ConnectorShape,
    ImageSplitterSpec,
    Parameters,
    ParameterShape,
    Size,
    TileLayout,
    VisionShape,
)


class ExamplePartSpec(ImageSplitterSpec):
    """The picture is stretched over upright strips, each one view; a learned vector ends each strip's tokens."""

    strips: Annotated[int, Field(ge=1, le=16)] = 2
    """Number of strips, 1 to 16. Default 2."""

    def layout(self, image_size: Size, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """Views and exact number of positions of a picture of `image_size` (height, width)."""
        height, width = encoder.image_size
        return TileLayout(
            views=self.strips,
            tokens=self.strips * (connector.tokens + 1),
            image_size=image_size,
            canvas=(height, width * self.strips),
            tiles=(1, self.strips),
            view_size=encoder.image_size,
        )

    def parameters(self, width: int) -> Parameters:
        """The learned vector, for language-model width D."""
        return (ParameterShape("end", (width,)),)
