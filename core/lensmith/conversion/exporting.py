"""Write an artifact's model as another project's files, and prove that they answer alike."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.conversion.options import settings
from lensmith.errors import ArtifactError, Problem, SpecError
from lensmith.interfaces.formats import Exporter, ExporterSpec
from lensmith.parts import naming_sources
from lensmith.spec.build import installed, part_class
from lensmith_registry import Kind

if TYPE_CHECKING:
    import torch

    from lensmith.artifacts import Manifest
    from lensmith.conversion.held import Held
    from lensmith.interfaces.specs import TunerSpec
    from lensmith.spec.run import RunSpec


@dataclass(frozen=True)
class Exported:
    """What was written and how near it is to its source.

    Args:
        folder: the files.
        difference: largest difference of any logit, as a share of the largest.
        tolerance: what was allowed.
        positions: how many positions' logits were compared.
        dtype: type of the weights.
        notes: what the user should know.
        pixels: largest difference of a pixel between what the written files' own processor makes and the artifact's, in
            grey levels of 255; logits are compared on the artifact's pixels.
    """

    folder: Path
    difference: float
    tolerance: float
    positions: int
    dtype: str
    notes: tuple[str, ...]
    pixels: float = 0.0


def refusals(spec: RunSpec, to: str, options: Sequence[str] = ()) -> list[Problem]:
    """What of a spec a format cannot express, before anything is trained.

    Args:
        spec: its last stage's tuner is what would be exported.
        to: name of the exporter.
        options: fields of its spec, `KEY=VALUE`.

    Raises:
        LensmithError: no such exporter or option.
    """
    exporter: Any = settings(Kind.EXPORTER, to, options)
    assert isinstance(exporter, ExporterSpec)
    last = list(spec.stages)[-1] if spec.stages else None
    tuner = spec.stages[last].tuner if last is not None else None

    def path(problem: Problem) -> str:
        return f"stages.{last}.{problem.path}" if problem.path.split(".")[0] == "tuner" else problem.path

    with naming_sources(spec.model):
        found = exporter.refusals(spec.model, tuner, merge=None)
    return [replace(p, path=path(p), message=f"{to} cannot express this: {p.message}") for p in found]


def require_exportable(source: Path, overrides: Sequence[str], formats: Sequence[str]) -> None:
    """Check a spec file against formats that it is to be exported to.

    Raises:
        SpecError: all that they cannot express, with file and line.
        LensmithError: no such exporter.
    """
    from lensmith.spec.build import read_spec
    from lensmith.spec.messages import place

    spec, documents = read_spec(source, overrides)
    if problems := [problem for to in formats for problem in refusals(spec, to)]:
        raise SpecError([replace(p, place=place(tuple(p.path.split(".")), documents)) for p in problems])


def export(
    artifact: str | Path,
    output: str | Path,
    *,
    to: str,
    merge: bool = False,
    dtype: torch.dtype | None = None,
    options: Sequence[str] = (),
    overrides: Sequence[str] = (),
    seed: int = 0,
    dry_run: bool = False,
) -> Exported | None:
    """Write an artifact in another format.

    The files are read back, and their logits on seeded questions are compared with the artifact's. They appear under
    their name only where these agree.

    Args:
        artifact: what a stage or an import wrote.
        output: a folder, which must not exist.
        to: name of the exporter.
        merge: fold adapters into the weights first.
        dtype: floating type of the weights; by default the artifact's precision.
        options: fields of the exporter's spec, `KEY=VALUE`.
        overrides: `language_model.checkpoint=…`, where a base has moved.
        seed: of the questions.
        dry_run: only say whether it can be done; returns None.

    Raises:
        SpecError: what the format cannot express, part by part; before a weight is read.
        ArtifactError: a folder that is there already, or logits that differ; then nothing is written.
    """
    import torch

    from lensmith.artifacts import ADAPTER, Manifest
    from lensmith.conversion.held import Held
    from lensmith.conversion.probes import TOLERANCES
    from lensmith.files import atomic_folder, verify
    from lensmith.loading import model_spec

    target, source = Path(output), Path(artifact)
    manifest = Manifest.read(source)
    exporter = settings(Kind.EXPORTER, to, options)
    assert isinstance(exporter, ExporterSpec)
    tuner = _tuner(manifest)
    if problems := exporter.refusals(model_spec(manifest, overrides), tuner, merge=merge):
        raise SpecError([Problem(p.path, f"{to} cannot express this: {p.message}", str(source)) for p in problems])
    if not merge and (own := sorted(_adapters(manifest) - {ADAPTER})):
        raise ArtifactError(
            f"{source} holds {own[0]}/, which only its tuner {manifest.data['tuner']['name']!r} can read, so {to}"
            " cannot hold it; add --merge to fold it into the weights first"
        )
    chosen = dtype or getattr(torch, str(manifest.data.get("precision", "float32")))
    if str(chosen).removeprefix("torch.") not in TOLERANCES:
        raise ArtifactError(f"weights cannot be exported in {chosen}; one of {', '.join(TOLERANCES)}")
    if dry_run:
        if os.path.lexists(target):
            raise ArtifactError(f"{target} exists already; choose another folder, or delete it")
        return None
    if damage := verify(source, manifest.data["files"]):
        raise ArtifactError(f"{source} is damaged: {'; '.join(damage)}")
    scratch = target.absolute().with_name(f".writing-for-{target.name}")
    with atomic_folder(target) as folder:  # holds the lock, so that the scratch folder is ours too
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            if merge and _adapters(manifest):
                manifest, overrides, tuner = _merged(source, scratch / "merged", chosen, overrides), (), None
            held = Held(manifest, model_spec(manifest, overrides), tuner, chosen, scratch / "parts", overrides)
            made: Exporter = installed().get(Kind.EXPORTER, to).load()(exporter)
            notes = list(made.write(held, folder))
            difference, positions = _checked(made, held, folder, f"{source} was not exported as {to}", seed)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    name = str(chosen).removeprefix("torch.")
    return Exported(target, difference, TOLERANCES[name], positions, name, tuple(notes), made.pixels)


def _checked(made: Exporter, held: Held, folder: Path, origin: str, seed: int) -> tuple[float, int]:
    """Compare logits; one model is in memory at a time."""
    from lensmith.conversion.probes import compare, probes
    from lensmith.merging import logits

    model = made.as_written(held.model())
    asked = probes(model, seed)
    expected = logits(model, [probe.sample for probe in asked])
    del model
    gc.collect()
    found = made.logits(held, folder, asked)
    name = str(held.dtype).removeprefix("torch.")
    return compare(expected, found, name, origin), sum(map(len, expected))


def _tuner(manifest: Manifest) -> TunerSpec | None:
    described = manifest.data["tuner"]
    if described is None:
        return None
    found: Any = part_class(Kind.TUNER, described["name"], installed()).model_validate(dict(described))
    return found  # type: ignore[no-any-return]


def _adapters(manifest: Manifest) -> set[str]:
    """What an artifact wears that could be folded in: folders that are no part's."""
    from lensmith.dims import LARGE_PARTS, SMALL_PARTS

    return set(manifest.data["weights"]) - {*LARGE_PARTS, *SMALL_PARTS}


def _merged(source: Path, target: Path, dtype: torch.dtype, overrides: Sequence[str]) -> Manifest:
    from lensmith.artifacts import Manifest
    from lensmith.merging import merge

    target.parent.mkdir(parents=True, exist_ok=True)
    merge(source, target, dtype=dtype, overrides=overrides)
    return Manifest.read(target)
