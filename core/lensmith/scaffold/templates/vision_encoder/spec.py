"""What a spec file may say of the encoder, and the sizes that follow. Every command imports this: no torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from lensmith import ParameterShape, SpecPath, VisionEncoderSpec, VisionShape, norm


class ExamplePartSpec(VisionEncoderSpec):
    """Each patch of a square view becomes one token: a linear map, the place of the patch, a norm."""

    checkpoint: SpecPath | None = None
    """A .safetensors file that `ExamplePartEncoder.save` wrote. Default none: random weights."""

    image_size: Annotated[int, Field(ge=1)] = 224
    """Side of a view in pixels, a multiple of `patch_size`. Default 224."""

    patch_size: Annotated[int, Field(ge=1)] = 16
    """Side of a patch in pixels. Default 16."""

    width: Annotated[int, Field(ge=1)] = 256
    """W, features a token. Default 256."""

    @classmethod
    def tiny(cls, folder: Path) -> ExamplePartSpec:
        """The smallest encoder, for tests."""
        return cls(image_size=32, patch_size=8, width=16)

    def shape(self) -> VisionShape:
        """Sizes from the fields alone.

        Raises:
            ValueError: patches that do not fill the view.
        """
        side, rest = divmod(self.image_size, self.patch_size)
        if rest or not side:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        patch = (3, self.patch_size, self.patch_size)
        return VisionShape(
            image_size=(self.image_size, self.image_size),
            grid=(side, side),
            width=self.width,
            parameters=(
                ParameterShape("places", (side * side, self.width)),
                ParameterShape("patches.weight", (self.width, *patch)),
                ParameterShape("patches.bias", (self.width,)),
                *norm("norm", self.width),
            ),
            flops_per_view=2 * 3 * self.image_size**2 * self.width,
        )

    def sources(self) -> dict[str, str]:
        """The checkpoint: an artifact records its hash."""
        return {} if self.checkpoint is None else {"checkpoint": str(self.checkpoint)}

    def fresh(self) -> bool:
        """Whether the weights are random."""
        return self.checkpoint is None

    def relocated(self, folder: Path) -> ExamplePartSpec:
        """The same encoder with its weights in a folder that `ExamplePartEncoder.save` wrote."""
        return self.model_copy(update={"checkpoint": folder / "model.safetensors"})
