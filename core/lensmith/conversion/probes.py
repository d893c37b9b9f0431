"""Questions that an artifact and what was made of it must answer alike, logit by logit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lensmith.errors import ArtifactError, DataError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from lensmith.data.sample import Sample
    from lensmith.model import MultimodalModel

TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 4e-2}
"""How far logits may be apart, as a share of the largest, by the type of the weights: the weights are the same, only
the order of sums differs between two programs, some units of the type's last place over dozens of layers."""
_WORDS = 24


@dataclass(frozen=True)
class Probe:
    """One question.

    Args:
        prompt: all that the model reads, BOS left out, pictures as `<image>`.
        pictures: RGB, in the order of the prompt.
        sample: the same laid out by the artifact's model.
    """

    prompt: str
    pictures: tuple[Image.Image, ...]
    sample: Sample


def probes(model: MultimodalModel, seed: int) -> list[Probe]:
    """Random words about a broad picture of coloured noise, about a tall one, of the sizes that tell the splitter's
    rules from others, and without one."""
    from PIL import Image

    from lensmith.data.encode import encode
    from lensmith.data.rows import user_turn
    from lensmith.generation import Question, prepare

    draw = random.Random(seed)
    height, width = model.vision_encoder.shape.image_size
    tokenizer = model.language_model.tokenizer
    vocabulary = model.language_model.shape.vocabulary
    found = []
    pipeline = model.pictures
    telling = pipeline.splitter_spec.telling_sizes(pipeline.encoder, pipeline.connector)
    sizes = [(width + 9, height), (width, 2 * height + 5), *((across, down) for down, across in telling)]
    for size in (*sizes, None):
        pictures: tuple[Image.Image, ...] = ()
        if size is not None:
            noise = Image.frombytes("RGB", (7, 5), draw.randbytes(3 * 7 * 5))
            pictures = (noise.resize(size, Image.Resampling.BICUBIC),)
        words = tokenizer.decode([draw.randrange(vocabulary) for _ in range(_WORDS)])
        text = " ".join(words.replace("<image>", "").replace("\ufffd", "").split()) or "?"
        turns = [user_turn(text, len(pictures))]
        prompt = encode(model.conversation.render(turns, reply=True), tokenizer).prompt
        try:
            found.append(Probe(prompt, pictures, prepare(model, Question(pictures, text))))
        except DataError:
            if size not in sizes[2:]:  # of those, one may take more positions than the model has
                raise
    return found


def compare(
    expected: Sequence[Tensor], found: Sequence[Tensor], dtype: str, origin: str, tolerance: float | None = None
) -> float:
    """The largest difference of any logit, as a share of the largest.

    Args:
        expected: of the source.
        found: of what was made; it may have more columns (rows of padding in the vocabulary).
        dtype: type of the weights.
        origin: what was made of what, for the message.
        tolerance: by default that of the type.

    Raises:
        ArtifactError: they differ too much.
    """
    import torch

    allowed = TOLERANCES[dtype] if tolerance is None else tolerance
    largest = max(float(tensor.abs().max()) for tensor in expected)
    moved = []
    for number, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        if len(theirs) != len(ours) or theirs.shape[1] < ours.shape[1]:
            raise ArtifactError(
                f"{origin}: probe {number} has logits {tuple(theirs.shape)}, the source {tuple(ours.shape)}; nothing"
                " was written"
            )
        moved.append((ours - theirs[:, : ours.shape[1]]).abs().max())
    difference = float(torch.stack(moved).max()) / max(largest, 1e-12)  # torch's maximum keeps a NaN
    if not difference <= allowed:
        raise ArtifactError(
            f"{origin}: a logit differs by {difference:.2e} of the largest, more than the {allowed:.0e} that {dtype}"
            f" allows ({sum(map(len, expected))} positions of {len(expected)} seeded questions); nothing was written"
        )
    return difference
