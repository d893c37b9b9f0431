"""Several encoders side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from lensmith import Kind, Loading, Preprocessing, VisionEncoder, VisionShape, implementation
from lensmith_plugins.vision_encoders.fused_spec import FusedSpec


class FusedEncoder(VisionEncoder):
    """Features of two or more encoders, concatenated on the width.

    The method is that of the Prismatic VLMs (Karamcheti et al. 2024, arXiv 2402.07865): DINOv2 for where things are,
    SigLIP for what they are.
    """

    def __init__(self, spec: FusedSpec, encoders: Sequence[VisionEncoder]) -> None:
        super().__init__()
        self.spec = spec
        self.encoders = nn.ModuleList(encoders)
        self.shapes = [encoder.shape for encoder in encoders]
        self.shape = spec.joined(self.shapes)

    @classmethod
    def build(cls, spec: FusedSpec, loading: Loading) -> FusedEncoder:
        """Build each encoder and load its weights (see `VisionEncoder.build`)."""
        return cls(spec, [implementation(Kind.VISION_ENCODER, part).build(part, loading) for part in spec.encoders])

    @classmethod
    def measure(cls, spec: FusedSpec) -> VisionShape:
        """The encoders' shapes, measured where they have no closed form."""
        return spec.joined(
            [part.shape() or implementation(Kind.VISION_ENCODER, part).measure(part) for part in spec.encoders]
        )

    @classmethod
    def preprocessing(cls, spec: FusedSpec) -> Preprocessing:
        """Each encoder's own, stacked."""
        return Stacked([implementation(Kind.VISION_ENCODER, part).preprocessing(part) for part in spec.encoders])

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode views: pixels (V, 3n, H, W) of n encoders, stacked on the channels, to (V, N, sum of widths)."""
        stacks = torch.split(pixels, [shape.channels for shape in self.shapes], dim=1)
        features = [
            encoder(own[..., : shape.image_size[0], : shape.image_size[1]])
            for encoder, own, shape in zip(self.encoders, stacks, self.shapes, strict=True)
        ]
        return torch.cat(features, dim=-1)

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write each encoder to a folder of its own (see `VisionEncoder.save`)."""
        for number, (encoder, name) in enumerate(zip(self.encoders, self.spec.folders(), strict=True)):
            (folder / name).mkdir(parents=True)
            prefix = f"encoders.{number}."
            own = None
            if state is not None:
                own = {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}
            cast(VisionEncoder, encoder).save(folder / name, own)


class Stacked(Preprocessing):
    """Each encoder's pixels above one another on the channels, with zeros below and to the right of smaller ones.

    Args:
        parts: the encoders' own transforms; the first one's background is used.
    """

    def __init__(self, parts: Sequence[Preprocessing]) -> None:
        self.parts = list(parts)
        self.background = parts[0].background

    def __call__(self, image: Image.Image) -> Tensor:
        """One RGB picture of any size to float32 (3n, H, W) for n encoders."""
        views = [part(image) for part in self.parts]
        height, width = max(view.shape[-2] for view in views), max(view.shape[-1] for view in views)
        return torch.cat([F.pad(view, (0, width - view.shape[-1], 0, height - view.shape[-2])) for view in views])
