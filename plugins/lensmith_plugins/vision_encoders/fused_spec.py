"""The spec of several encoders side by side. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lensmith import IncompatibleParts, VisionEncoderSpec, VisionShape


class FusedSpec(VisionEncoderSpec):
    """Two or more encoders that see the same view, their features concatenated on the width.

    Each encoder prepares the picture in its own way. Their token grids must be equal, and so must the extra tokens
    that they keep.
    """

    encoders: Annotated[list[VisionEncoderSpec], Field(min_length=2)]
    """The encoders in the order of their features, each any installed vision encoder that is not made of others.
    Splitters pad with the background colour of the first. Required."""

    @classmethod
    def tiny(cls, folder: Path) -> FusedSpec:
        """See `PartSpec.tiny`."""
        from lensmith_plugins.vision_encoders.transformers_specs import ClipSpec, SiglipSpec

        (folder / "clip").mkdir()
        (folder / "siglip").mkdir()
        return cls(encoders=[ClipSpec.tiny(folder / "clip"), SiglipSpec.tiny(folder / "siglip")])

    def folders(self) -> list[str]:
        """What the encoders' folders in an artifact are called, e.g. `0_dinov2`."""
        return [f"{number}_{_name(part)}" for number, part in enumerate(self.encoders)]

    def sources(self) -> dict[str, str]:
        """The encoders' own, by path."""
        return {
            f"encoders.{number}.{field}": source
            for number, part in enumerate(self.encoders)
            for field, source in part.sources().items()
        }

    def fresh(self) -> bool:
        """Whether any encoder's weights are random."""
        return any(part.fresh() for part in self.encoders)

    def relocated(self, folder: Path) -> FusedSpec:
        """The same encoders from the folders below one that `FusedEncoder.save` wrote."""
        parts = [part.relocated(folder / name) for part, name in zip(self.encoders, self.folders(), strict=True)]
        return self.model_copy(update={"encoders": parts})

    def shape(self) -> VisionShape | None:
        """Sizes from config files alone, where every encoder has a closed form (see `VisionEncoderSpec.shape`).

        Raises:
            IncompatibleParts: the encoders' tokens do not lie on one grid.
        """
        shapes = [part.shape() for part in self.encoders]
        known = [shape for shape in shapes if shape is not None]
        return self.joined(known) if len(known) == len(shapes) else None

    def joined(self, shapes: Sequence[VisionShape]) -> VisionShape:
        """The shape of all together, from each one's.

        Raises:
            IncompatibleParts: the encoders' tokens do not lie on one grid, or not all keep a class token.
        """
        first = shapes[0]
        names = [f"encoders.{number} ({_name(part)})" for number, part in enumerate(self.encoders)]
        for name, shape in zip(names[1:], shapes[1:], strict=True):
            if shape.grid != first.grid:
                patch = shape.image_size[0] // shape.grid[0]
                raise IncompatibleParts(
                    f"{names[0]} and {name} cannot be fused: {_grid(first)} and {_grid(shape)} tokens; choose"
                    f" checkpoints or image sizes with one grid: {name} has {_grid(first)} at {first.grid[0] * patch}"
                    " pixels"
                )
            if shape.extra_tokens != first.extra_tokens:
                raise IncompatibleParts(
                    f"{names[0]} and {name} cannot be fused: they keep {first.extra_tokens} and"
                    f" {shape.extra_tokens} tokens beside the grid; set cls_token alike, or false in both"
                )
        return VisionShape(
            # Splitters cut tiles of this size: the largest, so that no encoder enlarges what was made smaller.
            image_size=(max(s.image_size[0] for s in shapes), max(s.image_size[1] for s in shapes)),
            grid=first.grid,
            width=sum(shape.width for shape in shapes),
            extra_tokens=first.extra_tokens,
            parameters=tuple(
                replace(tensor, name=f"encoders.{number}.{tensor.name}")
                for number, shape in enumerate(shapes)
                for tensor in shape.parameters
            ),
            flops_per_view=sum(shape.flops_per_view for shape in shapes),
            channels=sum(shape.channels for shape in shapes),
        )


def _name(part: VisionEncoderSpec) -> str:
    return str(getattr(part, "name", type(part).__name__))


def _grid(shape: VisionShape) -> str:
    return f"{shape.grid[0]} x {shape.grid[1]}"
