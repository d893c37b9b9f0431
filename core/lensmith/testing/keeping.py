"""What was trained is what is loaded: whole models trained for a few steps, saved, read back, merged and handed on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lensmith
from lensmith.artifacts import Manifest
from lensmith.dims import LARGE_PARTS, SMALL_PARTS, join
from lensmith.errors import LensmithError
from lensmith.interfaces.specs import TunerSpec
from lensmith.loading import restore
from lensmith.model import MultimodalModel
from lensmith.spec.run import ModelSpec
from lensmith.testing.findings import Broken, NotApplicable, expect
from lensmith.testing.kit import Kit
from lensmith.testing.models import batch, model_spec
from lensmith.testing.subjects import SEED, Subject, promised

_SAVED = "What a tuner trained is saved in an artifact that `lensmith.load` reads."
_EQUAL = "A saved and loaded model gives the features and the loss that it gave before, and has its buffers."
_HANDED_ON = (
    "What a tuner trained is there in the artifact of a later stage with another tuner: `load` and `merge` put it into"
    " the weights, or `merge` raises."
)
_MERGED = "`lensmith merge` writes what a tuner trained, or says why it cannot."


@dataclass
class Seen:
    """What a model gives and holds, in evaluation mode."""

    features: Tensor
    loss: float
    buffers: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Kept:
    """An artifact of a model that was trained for a few steps, and what the model was like."""

    folder: Path
    seen: Seen
    what: str


def train_and_save(kit: Kit, model: ModelSpec, implementation: Any, spec: TunerSpec) -> Kept:
    """Train a tiny model by a tuner for three steps in training mode, and write the artifact."""
    tuner = implementation(spec)
    names = f"{getattr(model.vision_encoder, 'name', '')!r} tuned by {getattr(spec, 'name', '')!r}"
    with promised(_SAVED):
        trained = lensmith.assemble(model, tuner=tuner, seed=SEED)
        torch.manual_seed(SEED)
        tuner.prepare(trained)
        trained.train()
        parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        shown = batch(trained, pictures=True)
        for _ in range(3):
            optimizer.zero_grad()
            trained(shown).backward()
            optimizer.step()
        trained.tuner = tuner
        trained.requires_grad_(False)
        seen = look(trained)
        return Kept(trained.save(kit.folder() / "artifact"), seen, names)


def look(model: MultimodalModel) -> Seen:
    """Features of the pictures that the kit shows, the loss, and every buffer of encoder and language model."""
    model.eval()
    shown = batch(model, pictures=True)
    assert shown.pixels is not None
    with torch.no_grad():
        features, loss = model.encode(shown.pixels).clone(), float(model(shown))
    buffers = {f"{part}.{name}": b.clone() for part in LARGE_PARTS for name, b in model.buffers_of(part).items()}
    return Seen(features, loss, buffers)


def compare(kept: Kept, again: Seen, promise: str, how: str) -> None:
    """Hold what another model gives against it."""
    before = kept.seen
    apart = float((before.features - again.features).abs().max())
    scale = max(1.0, float(before.features.abs().max()))
    expect(apart <= 1e-4 * scale, promise, f"Features of {kept.what} differ by up to {apart:.2g} {how}.")
    moved = abs(before.loss - again.loss)
    told = f"The loss of {kept.what} was {before.loss:.6f} and is {again.loss:.6f} {how}."
    expect(moved <= 1e-4 * max(1.0, abs(before.loss)), promise, told)
    for name in before.buffers.keys() & again.buffers.keys():
        one, other = before.buffers[name], again.buffers[name]
        equal = one.shape == other.shape and torch.allclose(one.double(), other.double(), rtol=1e-5, atol=1e-6)
        # The count of batches is used by norms without a momentum alone, and many checkpoints lack it.
        expect(
            equal or name.endswith("num_batches_tracked"), promise, f"Buffer {name} of {kept.what} is another {how}."
        )


def saved(kit: Kit, model: ModelSpec, implementation: Any, spec: TunerSpec) -> Kept:
    """Train, save, load, compare."""
    kept = train_and_save(kit, model, implementation, spec)
    with promised(_SAVED):
        again = look(lensmith.load(kept.folder, dtype=torch.float32))
    compare(kept, again, _EQUAL, "after loading")
    return kept


def with_encoder(kit: Kit, encoder: Subject, implementation: Any, spec: TunerSpec) -> None:
    """The same with an encoder that the tuner trains, merged as well; nothing where it cannot train it."""
    model = model_spec(kit, encoder)
    try:
        spec.trainable(join(model).parameters())
    except ValueError:
        return
    _merged(kit, saved(kit, model, implementation, spec))


def pass_on(kit: Kit, kept: Kept) -> None:
    """Through a stage with another tuner, and through `lensmith merge`."""
    manifest = Manifest.read(kept.folder)
    try:
        compare(kept, look(lensmith.load(kept.folder, dtype=torch.float32)), _EQUAL, "after loading")
    except (Broken, LensmithError) as error:
        raise NotApplicable("what it trained is not even in its own artifact, see save") from error
    try:
        with_none, worn = restore(manifest, dtype=torch.float32, merge=True)
    except LensmithError as error:
        expect("merge" in str(error), _HANDED_ON, f"It raised {type(error).__name__}: {error}.")
        return
    expect(worn is None, _HANDED_ON, "The tuner was still on the model.")
    with_none.requires_grad_(False)
    with promised(_HANDED_ON):
        folder = with_none.save(kit.folder() / "later")
        later = look(lensmith.load(folder, dtype=torch.float32))
    compare(kept, later, _HANDED_ON, "in the artifact of a later stage")
    _merged(kit, kept)


def _merged(kit: Kit, kept: Kept) -> None:
    from lensmith.merging import merge

    if not set(Manifest.read(kept.folder).data["weights"]) - {*SMALL_PARTS, *LARGE_PARTS}:
        return
    with promised(_MERGED):
        done = merge(kept.folder, kit.folder() / "merged", dtype=torch.float32)
        again = look(lensmith.load(done.folder, dtype=torch.float32))
    compare(kept, again, _MERGED, "after merging")
