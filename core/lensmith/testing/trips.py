"""Check `trip`: what an exporter writes answers as its artifact does, and what an importer reads is what is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.errors import ArtifactError, LensmithError
from lensmith.testing.findings import Broken, NotApplicable, expect
from lensmith.testing.kit import Kit
from lensmith.testing.models import tiny_models
from lensmith.testing.subjects import Subject, promised
from lensmith_registry import Kind

if TYPE_CHECKING:
    from lensmith.spec.run import ModelSpec

_WRITES = "An exporter writes files that give the artifact's logits when they are read back."
_READS = "`logits` reads the files: weights that were changed in them give other logits."
_RECOGNISES = "`recognise` says what a checkpoint of its format is, and nothing of a folder without one."
_IMPORTS = "What an importer recognises it reads, to an artifact that can be loaded."
_BACK = "What an exporter wrote, the importer of the same name reads back with equal logits."
_SHOWN = 200


def exporter(subject: Subject, kit: Kit) -> None:
    """Export a tiny model of Lensmith's own parts, spoil the files, and read them back where there is an importer."""
    from lensmith.assembly import assemble
    from lensmith.conversion.exporting import export

    model = _expressible(subject, kit)
    home = kit.folder()
    with promised("A tiny model of Lensmith's own parts can be assembled."):
        assemble(model).save(home / "artifact")
    name = subject.component.name
    with promised(_WRITES):
        export(home / "artifact", home / "files", to=name)
    _spoilt(subject, home)
    importers = [c for c in kit.registry.components(Kind.IMPORTER) if c.name == name]
    if any(component.distribution == subject.component.distribution for component in importers):
        _back(name, home)


def importer(subject: Subject, kit: Kit) -> None:
    """Recognise, read and load the checkpoint that `tiny(folder)` wrote."""
    from lensmith.conversion.foreign import Foreign
    from lensmith.conversion.importing import choose, import_checkpoint
    from lensmith.loading import load

    home = subject.home
    if not any(home.iterdir()):
        raise NotApplicable("tiny(folder) writes no checkpoint")
    empty = kit.folder()
    (empty / "notes.txt").write_text("nothing")
    with promised(_RECOGNISES):
        here = subject.implementation.recognise(Foreign(home, "tiny"))
        nowhere = subject.implementation.recognise(Foreign(empty, "empty"))
    expect(bool(here) and isinstance(here, str), _RECOGNISES, f"Of the tiny checkpoint it says {here!r}.")
    expect(nowhere == "", _RECOGNISES, f"A folder with a text file is {nowhere!r} to it.")
    with promised("A checkpoint is recognised by one importer alone."):
        name, _, _ = choose(Foreign(home, "tiny"), None, ())
    expect(name == subject.component.name, _RECOGNISES, f"The importer {name!r} takes its checkpoint.")
    target = kit.folder() / "artifact"
    with promised(_IMPORTS):
        import_checkpoint(home, target, format=name)
        load(target)


def _expressible(subject: Subject, kit: Kit) -> ModelSpec:
    """A tiny model that the format takes."""
    refused = "no other parts are installed"
    for model in tiny_models(kit):
        with promised("`refusals` tells problems of a model, and raises nothing."):
            problems = subject.spec.refusals(model, None, merge=None)
        if not problems:
            return model
        refused = problems[0].message
    raise NotApplicable(f"it takes no tiny model of Lensmith's own parts; of the last it says: {refused[:_SHOWN]}")


def _spoilt(subject: Subject, home: Path) -> None:
    """Change the weights in the files; whoever compares logits must notice."""
    import torch

    from lensmith.artifacts import Manifest
    from lensmith.conversion.held import Held
    from lensmith.conversion.probes import compare, probes
    from lensmith.conversion.stored import Stored, read, write_file
    from lensmith.loading import model_spec
    from lensmith.merging import logits

    copy = home / "spoilt"
    shutil.copytree(home / "files", copy)
    files = [file for file in copy.rglob("*.safetensors") if not file.is_symlink()]
    if not files:
        return
    for file in files:
        changed = {name: stored.load().clone() for name, stored in read(file).items()}
        for tensor in changed.values():
            if tensor.is_floating_point():
                tensor.add_(0.5)
        file.unlink()
        write_file(file, {name: Stored.of(tensor) for name, tensor in changed.items()})
    manifest = Manifest.read(home / "artifact")
    held = Held(manifest, model_spec(manifest), None, torch.float32, home / "scratch")
    model = held.model()
    asked = probes(model, 0)
    expected = logits(model, [probe.sample for probe in asked])
    try:
        found: Any = subject.implementation(subject.spec).logits(held, copy, asked)
        compare(expected, found, "float32", "spoilt")
    except (LensmithError, ArtifactError, ValueError, RuntimeError, OSError):
        return  # noticed
    raise Broken(_READS, "Every weight in the files was changed, and the logits are the artifact's.")


def _back(name: str, home: Path) -> None:
    from lensmith.conversion.importing import import_checkpoint
    from lensmith.conversion.probes import compare, probes
    from lensmith.loading import load
    from lensmith.merging import logits

    with promised(_BACK):
        import_checkpoint(home / "files", home / "back", format=name)
        first, again = load(home / "artifact"), load(home / "back")
        asked = [probe.sample for probe in probes(first, 0)]
        compare(logits(first, asked), logits(again, asked), "float32", f"{name}, out and in again")
