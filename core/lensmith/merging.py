"""Fold an artifact's adapters into the weights that they adapt, and prove that the model answers as before."""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lensmith.errors import ArtifactError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lensmith.artifacts import Manifest
    from lensmith.data.sample import Sample
    from lensmith.model import MultimodalModel

TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 8e-2}
"""How far logits may move, as a share of the largest, by the type of the merged weights: each weight is rounded once
more where it is written, which over dozens of layers adds up to some ten units of the type's last place."""
_WORDS = 24
"""Random tokens of each probe."""


@dataclass(frozen=True)
class Merged:
    """A merged artifact and how near it is to what it was made of.

    Args:
        folder: the new artifact.
        difference: largest difference of any logit before and after, as a share of the largest logit.
        tolerance: what was allowed.
        dtype: type of the merged weights, e.g. `bfloat16`.
        parts: the parts that the artifact now holds in full.
        positions: how many positions' logits were compared.
    """

    folder: Path
    difference: float
    tolerance: float
    dtype: str
    parts: tuple[str, ...]
    positions: int


def merge(
    artifact: str | Path,
    output: str | Path,
    *,
    dtype: torch.dtype | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
) -> Merged:
    """Write an artifact without adapters that answers like the one given.

    The merged artifact is loaded from the disk and its logits on seeded questions, with a picture and without, are
    compared with the original's. It appears under its name only when they agree.

    Args:
        artifact: what a stage with adapters wrote, or a checkpoint of it.
        output: the new artifact's folder, which must not exist.
        dtype: type of the merged weights; by default the precision that the stage trained in.
        overrides: `language_model.checkpoint=…`, where a base has moved.
        seed: of the questions.

    Raises:
        ArtifactError: nothing to merge, a folder that is there already, or logits that moved too far; then nothing is
            written.
        LensmithError: a method whose adapters are no change of weights.
    """
    import torch

    from lensmith.artifacts import Manifest, Provenance, write_artifact
    from lensmith.dims import LARGE_PARTS, SMALL_PARTS
    from lensmith.files import atomic_folder
    from lensmith.loading import fold, load

    source, target = Path(artifact), Path(output)
    manifest = Manifest.read(source)
    chosen = dtype or _precision(manifest)
    name = str(chosen).removeprefix("torch.")
    if name not in TOLERANCES:
        raise ArtifactError(f"weights cannot be merged in {name}; one of {', '.join(TOLERANCES)}")
    with atomic_folder(target) as folder:
        model = load(source, dtype=chosen, overrides=overrides)
        tuner, model.tuner = model.tuner, None
        samples = probes(model, seed)
        before = logits(model, samples)
        own = set(manifest.data["weights"]) - {*SMALL_PARTS, *LARGE_PARTS}
        if tuner is not None and own:
            fold(model, tuner)
        if not own:
            raise ArtifactError(f"{source} has no adapters, so there is nothing to merge; use it as it is")
        parts = tuple(sorted(model.changed))
        record = {"artifact": str(source.absolute()), "tuner": manifest.data["tuner"], "dtype": name}
        provenance = Provenance(
            manifest.data["stage"], manifest.data["data"], manifest.data["step"], manifest.data.get("steps", 0)
        )
        provenance.extra = {"precision": name, "merged": record}
        write_artifact(folder, model, {}, None, None, provenance)
        del model, tuner  # one model at a time
        gc.collect()
        after = logits(load(folder, dtype=chosen, overrides=_still_needed(overrides, parts)), samples)
        difference, tolerance = _difference(before, after), TOLERANCES[name]
        if not difference <= tolerance:  # also where it is no number
            raise ArtifactError(
                f"{source} was not merged: a logit moved by {difference:.2e} of the largest, more than the"
                f" {tolerance:.0e} that {name} allows ({sum(map(len, before))} positions of {len(before)} seeded"
                f" questions); nothing was written"
                + ("" if chosen == torch.float32 else ". Merge in fp32 (--dtype fp32) to see whether it is rounding")
            )
    return Merged(target, difference, tolerance, name, parts, sum(map(len, before)))


def probes(model: MultimodalModel, seed: int) -> list[Sample]:
    """Questions that depend on the seed alone: random tokens after a picture of coloured noise, and without one."""
    from PIL import Image

    from lensmith.generation import Question, prepare

    draw = random.Random(seed)
    height, width = model.vision_encoder.shape.image_size
    picture = Image.frombytes("RGB", (7, 5), draw.randbytes(3 * 7 * 5)).resize(
        (width + 9, height), Image.Resampling.BICUBIC
    )
    tokenizer = model.language_model.tokenizer
    vocabulary = model.language_model.shape.vocabulary
    found = []
    for images in ((picture,), ()):
        text = tokenizer.decode([draw.randrange(vocabulary) for _ in range(_WORDS)]).replace("<image>", "")
        found.append(prepare(model, Question(images, text or "?")))
    return found


def logits(model: MultimodalModel, samples: Sequence[Sample]) -> list[Tensor]:
    """Logits (positions, vocabulary) of each sample, in fp32 on the CPU."""
    import torch

    from lensmith.data.batch import collate

    model.eval()
    found = []
    with torch.inference_mode():
        for sample in samples:
            batch = collate([sample], model.language_model.tokenizer.pad_id).to(model.device)
            hidden = model.language_model(model.embed(batch), batch.positions, batch.segments)
            found.append(model.language_model.head(hidden)[0].float().cpu())
    return found


def _difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    largest = max(float(a.abs().max()) for a in before)
    moved = [float((a - b).abs().max()) for a, b in zip(before, after, strict=True)]
    # max() would drop a NaN that does not come first.
    return float("nan") if any(m != m for m in moved) else max(moved) / max(largest, 1e-12)


def _precision(manifest: Manifest) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, str(manifest.data.get("precision", "float32")), torch.float32)
    return found


def _still_needed(overrides: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Without those for parts that the artifact now holds itself."""
    return [o for o in overrides if o.split(".")[0].removeprefix("model.") not in parts]
