"""timm's ConvNeXt as a vision encoder. This module is imported by every command: no torch here."""

from typing import Annotated

from pydantic import Field

import lensmith
from lensmith import Component, Kind, SpecPath

api_version = 1


class ConvNextSpec(lensmith.VisionEncoderSpec):
    """The last map of a ConvNeXt: one token for each 32 x 32 pixels."""

    model: Annotated[str, Field(pattern="convnext")] = "convnext_base"
    """Name of the model in timm. Default convnext_base."""

    checkpoint: SpecPath | None = None
    """A .safetensors file with timm's tensor names. Default none: random weights."""

    image_size: Annotated[int, Field(multiple_of=32, gt=0)] = 256
    """Side of a view in pixels. Default 256: 8 x 8 tokens."""

    @classmethod
    def tiny(cls, folder):
        return cls(model="test_convnext2", image_size=64)

    def sources(self):
        return {"checkpoint": str(self.checkpoint)} if self.checkpoint else {}

    def fresh(self):
        return self.checkpoint is None

    def relocated(self, folder):
        return self.model_copy(update={"checkpoint": folder / "model.safetensors"})


@lensmith.hookimpl
def lensmith_components() -> list[Component]:
    names = {"implementation": "lensmith_convnext.encoder:ConvNextEncoder", "summary": "the last map of a ConvNeXt"}
    paper = "ConvNeXt (Liu et al. 2022, arXiv 2201.03545)"
    return [Component(Kind.VISION_ENCODER, "convnext", ConvNextSpec, **names, paper=paper)]
