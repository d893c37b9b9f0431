"""Samples to one batch of tensors, padded or packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from lensmith.data.sample import Picture, Sample
from lensmith.interfaces.shapes import TileLayout
from lensmith.interfaces.text import IGNORE_LABEL


@dataclass
class Batch:
    """What the model's forward takes. B rows of T positions, P picture positions, V views.

    Args:
        ids: (B, T) token ids; the padding id at padding and picture positions.
        positions: (B, T), restarting at 0 with each segment.
        segments: (B, T); 0 is padding, 1, 2, … number the samples of a row.
        targets: (B, T) the id that each position predicts, or -100.
        image_positions: (P,) indices into the flattened (B · T) positions, in the pictures' order.
        pixels: (V, 3, H, W) of the pictures that must be encoded, or None where there are none.
        layouts: one a picture.
        instructions: one a picture, the words that it is shown with.
        rows: the rows' ids, for messages.
        features: (V, N, W) of the pictures that come with theirs, or None where there are none.
        encoded: one a picture, whether it does.
        repeats: for each view of the pictures that must be encoded its place in `pixels`, where some are shown more
            than once; None where all differ.
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor
    targets: Tensor
    image_positions: Tensor
    pixels: Tensor | None
    layouts: tuple[TileLayout, ...] = ()
    instructions: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    features: Tensor | None = None
    encoded: tuple[bool, ...] = ()
    repeats: Tensor | None = None

    @property
    def target_count(self) -> int:
        """How many positions are supervised."""
        return int((self.targets != IGNORE_LABEL).sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, non_blocking=True)
        return replace(self, **moved)


def collate(samples: Sequence[Sample], pad_id: int, *, left: bool = False) -> Batch:
    """One sample a row, padded to the longest; on the left for generation."""
    return pack([[sample] for sample in samples], pad_id, left=left)


def pack(rows: Sequence[Sequence[Sample]], pad_id: int, *, left: bool = False) -> Batch:
    """Several samples a row, one segment each; rows are padded to the longest."""
    if not rows or not all(rows):
        raise ValueError("a batch needs at least one sample in each row")
    length = max(sum(len(sample.ids) for sample in row) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segments = torch.zeros_like(ids)
    targets = torch.full_like(ids, IGNORE_LABEL)
    image_positions: list[int] = []
    for number, row in enumerate(rows):
        start = length - sum(len(sample.ids) for sample in row) if left else 0
        for segment, sample in enumerate(row, start=1):
            end = start + len(sample.ids)
            ids[number, start:end] = torch.tensor(sample.ids)
            positions[number, start:end] = torch.arange(len(sample.ids))
            segments[number, start:end] = segment
            targets[number, start:end] = torch.tensor(sample.targets)
            image_positions.extend(number * length + start + position for position in sample.image_positions)
            start = end
    pictures = [picture for row in rows for sample in row for picture in sample.pictures]
    pixels, repeats = _different([picture for picture in pictures if picture.features is None])
    features = [picture.features for picture in pictures if picture.features is not None]
    return Batch(
        ids=ids,
        positions=positions,
        segments=segments,
        targets=targets,
        image_positions=torch.tensor(image_positions, dtype=torch.long),
        pixels=torch.cat(pixels) if pixels else None,
        layouts=tuple(picture.layout for picture in pictures),
        instructions=tuple(picture.instruction for picture in pictures),
        rows=tuple(sample.id for row in rows for sample in row),
        features=torch.cat(features) if features else None,
        encoded=tuple(picture.features is not None for picture in pictures),
        repeats=repeats,
    )


def _different(pictures: Sequence[Picture]) -> tuple[list[Tensor], Tensor | None]:
    """Pixels of pictures, those of one file once; and, if that left any out, for each view its place among them."""
    pixels: list[Tensor] = []
    places: list[Tensor] = []
    first: dict[str, Tensor] = {}
    for picture in pictures:
        place = first.get(picture.file) if picture.file else None
        if place is None:
            start = sum(map(len, pixels))
            place = torch.arange(start, start + len(picture.pixels))
            first[picture.file] = place
            pixels.append(picture.pixels)
        places.append(place)
    return pixels, torch.cat(places) if len(pixels) < len(pictures) else None
