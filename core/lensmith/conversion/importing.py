"""Make an artifact of a checkpoint that another project wrote."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.conversion.foreign import Foreign, locate
from lensmith.conversion.options import settings
from lensmith.dims import LARGE_PARTS, SMALL_PARTS
from lensmith.errors import ArtifactError, LensmithError, SpecError
from lensmith.interfaces.formats import Found, Importer, PartFiles
from lensmith.parts import in_one_line
from lensmith.spec.build import installed, validate
from lensmith.spec.yaml import Document
from lensmith_registry import Kind

if TYPE_CHECKING:
    from lensmith.interfaces.specs import TunerSpec
    from lensmith.spec.run import ModelSpec

ADAPTER, SPEC = "adapter", "spec.json"


@dataclass(frozen=True)
class Imported:
    """A new artifact and what it was made of.

    Args:
        folder: the artifact.
        format: name of the importer.
        recognised: what the checkpoint is.
        revision: its commit on the hub; empty for a local path.
        notes: what was found and assumed.
    """

    folder: Path
    format: str
    recognised: str
    revision: str
    notes: tuple[str, ...]


def import_checkpoint(
    source: str | Path,
    output: str | Path,
    *,
    format: str | None = None,
    revision: str | None = None,
    options: Sequence[str] = (),
) -> Imported:
    """Write an artifact with the weights of a checkpoint, bit by bit.

    It appears under its name only once it has been loaded, so that every tensor is known to be there and to fit.

    Args:
        source: a folder, a file of weights, or a hub id, whose commit the manifest then names.
        output: the artifact's folder, which must not exist.
        format: name of the importer; by default the one that recognises the files.
        revision: branch, tag or commit of a hub id.
        options: fields of the importer's spec, `KEY=VALUE`.

    Raises:
        LensmithError: not recognised, ambiguous (the option that settles it is named), not expressible, or damaged;
            then nothing is written.
    """
    foreign = locate(str(source), revision)
    name, importer, recognised = choose(foreign, format, options)
    with _told(foreign.name):
        found = importer.read(foreign)
    spec, tuner = _specs(found, foreign)
    record: dict[str, Any] = {"format": name, "recognised": recognised, "source": str(source)}
    record |= {"notes": list(found.notes), "bases": dict(found.bases)}
    if foreign.revision:
        record["revision"] = foreign.revision
    with _told(foreign.name):
        write(Path(output), found, spec, tuner, record)
    return Imported(Path(output), name, recognised, foreign.revision, tuple(found.notes))


@contextmanager
def _told(origin: str) -> Iterator[None]:
    """What libraries say of files that are not there or not right, as an error for the user."""
    try:
        yield
    except (LensmithError, MemoryError):
        raise
    except Exception as error:  # a stranger's file may make a library raise anything
        raise LensmithError(f"{origin}: {in_one_line(error)}") from error


def choose(foreign: Foreign, format: str | None, options: Sequence[str]) -> tuple[str, Importer, str]:
    """The importer of a checkpoint, and what it takes it for.

    Raises:
        LensmithError: no importer or several recognise it, or the one that was named does not.
    """
    registry = installed()
    names = [format] if format is not None else registry.names(Kind.IMPORTER)
    fits = []
    for name in names:
        with _told(foreign.name):
            recognised = registry.get(Kind.IMPORTER, name).load().recognise(foreign)
        if recognised:
            fits.append((name, recognised))
    if not fits and foreign.has("adapter_config.json"):
        base = foreign.json("adapter_config.json").get("base_model_name_or_path") or "a base that it does not name"
        raise LensmithError(
            f"{foreign.name} holds PEFT's adapters alone, made on {base!s:.200}, and no connector; merge them into"
            " their model with peft (merge_and_unload, save_pretrained) and import that, or give the LoRA folder with"
            " non_lora_trainables.bin that LLaVA's training wrote"
        )
    if not fits:
        held = foreign.files()
        told = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")
        raise LensmithError(
            f"{foreign.name} is no checkpoint that {' or '.join(names) or 'an importer'} reads: neither its configs nor"
            f" the names of its tensors are of that format (it holds: {told or 'nothing'})"
        )
    if len(fits) > 1:
        told = "; ".join(f"{name} takes it for {recognised}" for name, recognised in fits)
        raise LensmithError(f"{foreign.name} could be several things: {told}. Say which with --format")
    name, recognised = fits[0]
    component = registry.get(Kind.IMPORTER, name)
    return name, component.load()(settings(Kind.IMPORTER, name, options)), recognised


def write(target: Path, found: Found, spec: ModelSpec, tuner: TunerSpec | None, record: Mapping[str, Any]) -> None:
    """Write what was found as an artifact, and load it.

    Args:
        target: the artifact's folder.
        found: parts and specs, of which `spec` and `tuner` are validated.
        record: what the manifest says of the checkpoint.

    Raises:
        ArtifactError: the folder is there already, or the weights do not fit the parts.
    """
    from lensmith.artifacts import MANIFEST, Manifest, Provenance, manifest_data
    from lensmith.conversion.stored import main_dtype
    from lensmith.files import atomic_folder, write_json
    from lensmith.loading import restore
    from lensmith.parts import tokenizer

    weights = [stored for files in found.parts.values() for stored in files.tensors.values()]
    dtype = main_dtype(weights)
    with atomic_folder(target, need=sum(stored.size for stored in weights)) as folder:
        written = [name for part, files in found.parts.items() if (name := _write_part(folder, part, files))]
        (folder / "tokenizer").mkdir()
        tokenizer(spec).save(folder / "tokenizer")
        provenance = Provenance(extra={"precision": str(dtype).removeprefix("torch."), "imported": dict(record)})
        placed = _placed(spec, target.absolute(), written)
        write_json(folder / SPEC, _extendable(placed, target.absolute()))
        write_json(folder / MANIFEST, manifest_data(folder, placed, tuner, written, provenance))
        try:
            restore(Manifest.read(folder), dtype=dtype, check=False)
        except ArtifactError as error:
            message = str(error).replace(f"{folder} does not fit its model:", "its weights do not fit its config:")
            raise ArtifactError(f"{record['source']} was not imported: {message}") from error


def _specs(found: Found, foreign: Foreign) -> tuple[ModelSpec, TunerSpec | None]:
    from lensmith.spec.build import part_class

    try:
        spec = validate([Document({"model": dict(found.model)}, foreign.name)], installed()).model
    except SpecError as error:
        raise LensmithError(f"{foreign.name}: what was found is no model that the parts allow: {error}") from error
    if found.tuner is None:
        return spec, None
    tuner: Any = part_class(Kind.TUNER, str(found.tuner["name"]), installed())
    return spec, tuner.model_validate(dict(found.tuner))


def _placed(spec: ModelSpec, target: Path, written: Sequence[str]) -> ModelSpec:
    """The spec with every part that the artifact holds read from it, so that it can be read as any other."""
    fields = [part for part in written if part in type(spec).model_fields]
    placed = spec.model_copy(update={part: getattr(spec, part).relocated(target / part) for part in fields})
    language_model = placed.language_model.with_tokenizer(target / "tokenizer")
    return placed.model_copy(update={"language_model": language_model})


def _extendable(spec: ModelSpec, target: Path) -> dict[str, Any]:
    """A spec file beside the manifest: `extends:` it, add stages, and training starts from the artifact.

    Paths in the artifact are relative, so that it may be moved.
    """

    def relative(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: relative(item) for key, item in value.items() if item is not None}
        inside = isinstance(value, str) and Path(value).is_relative_to(target)
        return f"./{Path(value).relative_to(target)}" if inside else value

    return {"model": relative(spec.model_dump(mode="json")), "start_from": "."}


def _write_part(folder: Path, part: str, files: PartFiles) -> str:
    """Write one part; its name where the manifest lists it among those that have a folder."""
    from lensmith.conversion.stored import write_file, write_weights
    from lensmith.files import write_json

    place = folder / part
    if part in SMALL_PARTS and files.tensors:
        write_file(folder / f"{part}.safetensors", files.tensors)
    if part in SMALL_PARTS and not (files.configs or files.copies):
        return ""
    place.mkdir()
    if part in LARGE_PARTS:
        write_weights(place, files.tensors)
    elif part == ADAPTER:
        write_file(place / "adapter_model.safetensors", files.tensors)
    for name, config in files.configs.items():
        write_json(place / name, config)
    for name, path in files.copies.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place / name)
    return part
