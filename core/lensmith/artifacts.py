"""The folder that a stage publishes: safetensors and a manifest that says everything needed to load it.

manifest.json             resolved spec, plugins and versions, hashes, data, step
connector.safetensors     the connector
connector/                what it reads besides its weights (a tokenizer), where there is any
image_splitter.safetensors   where the splitter has weights
buffers.safetensors       statistics of batch norms and other buffers that moved, of parts that it does not hold
adapter/                  in PEFT's format, where a tuner made one
language_model/, vision_encoder/   only where they were trained
tokenizer/                what the ids mean
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.checkpoints import import_hint
from lensmith.dims import LARGE_PARTS, SMALL_PARTS
from lensmith.errors import ArtifactError
from lensmith.files import atomic_folder, inventory, known_sha256, sha256, sketch, write_json
from lensmith.io.json import JsonError, read_object
from lensmith.manifests import mistakes
from lensmith.parts import component_of, default_conversation, nested_parts
from lensmith_registry import Kind, PartSpec

if TYPE_CHECKING:
    from torch import Tensor

    from lensmith.interfaces.tuner import Tuner
    from lensmith.model import MultimodalModel
    from lensmith.spec.run import ModelSpec

FORMAT = 1
MANIFEST = "manifest.json"
BUFFERS = "buffers.safetensors"
ADAPTER = "adapter"
"""The folder of adapters in PEFT's format; other folders of a tuner are known to it alone."""
_REQUIRED = ("model", "tuner", "plugins", "weights", "sources", "stage", "data", "step", "files")


@dataclass(frozen=True)
class Manifest:
    """What an artifact says about itself.

    Args:
        folder: where it is.
        data: the content of `manifest.json`.
    """

    folder: Path
    data: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of an artifact.

        Raises:
            ArtifactError: the folder is not a whole artifact, or of a newer format.
        """
        path = folder / MANIFEST
        if not folder.is_dir():
            raise ArtifactError(f"{folder} does not exist; give the folder of a stage, e.g. runs/NAME/STAGE")
        if not path.is_file():
            inside = sorted(p.parent.name for p in folder.glob(f"*/{MANIFEST}"))
            hint = f"; it holds artifacts: {', '.join(inside)}" if inside else ""
            hint = hint or import_hint(folder)
            raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST}{hint}")
        try:
            data = read_object(path)
            written = data["format"]
        except JsonError as error:
            raise ArtifactError(str(error)) from error
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
        if written != FORMAT:
            raise ArtifactError(
                f"{path} has format {written}, this Lensmith reads {FORMAT}; install a version that fits"
            )
        if missing := [entry for entry in _REQUIRED if entry not in data]:
            raise ArtifactError(f"{path} is damaged: it lacks {', '.join(missing)}")
        if found := mistakes(data):
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise ArtifactError(f"{path} is damaged: {found[0]}{more}; restore the file, or train or import again")
        return cls(folder, data)


@dataclass
class Provenance:
    """Where the weights of an artifact come from.

    Args:
        stage: name and spec of the stage, or empty for an assembled model.
        data: path, rows and hash of each source.
        step, steps: optimiser steps done, and of the whole stage.
        extra: further entries of the manifest.
    """

    stage: dict[str, Any] = field(default_factory=dict)
    data: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    steps: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def write_artifact(
    folder: Path,
    model: MultimodalModel,
    state: Mapping[str, Tensor],
    tuner: Tuner | None,
    tuner_spec: PartSpec | None,
    provenance: Provenance,
) -> None:
    """Fill an empty folder with an artifact; the caller makes it appear atomically.

    Args:
        folder: the (temporary) folder.
        model: the model that was trained.
        state: gathered weights of what trained, by component-qualified name.
        tuner, tuner_spec: of the stage, or None.
        provenance: see there.

    Raises:
        ArtifactError: weights that are not finite, by file and name.
    """
    from safetensors.torch import save_file

    for part in SMALL_PARTS:
        module = getattr(model, part)
        tensors = {
            name: state.get(f"{part}.{name}", tensor).detach().cpu().contiguous()
            for name, tensor in module.state_dict().items()
        }
        if tensors:
            save_file(tensors, folder / f"{part}.safetensors", metadata={"format": "pt"})
    written = _written_by(tuner, model, folder, state) if tuner else []
    (folder / "connector").mkdir()
    model.connector.save(folder / "connector")
    if any((folder / "connector").iterdir()):
        written.append("connector")
    else:
        (folder / "connector").rmdir()
    for part in sorted(model.changed - set(written)):
        (folder / part).mkdir()
        getattr(model, part).save(folder / part, _plain_state(model, part, state, tuner))
        written.append(part)
    held = {name: t for name, t in model.moved_buffers().items() if name.split(".")[0] not in written}
    if held:
        save_file({name: t.contiguous() for name, t in held.items()}, folder / BUFFERS, metadata={"format": "pt"})
    (folder / "tokenizer").mkdir()
    model.language_model.tokenizer.save(folder / "tokenizer")
    refuse_not_finite(folder)
    write_json(folder / MANIFEST, manifest_data(folder, model.spec, tuner_spec, written, provenance))


def _written_by(tuner: Tuner, model: MultimodalModel, folder: Path, state: Mapping[str, Tensor]) -> list[str]:
    """The folders that a tuner writes of its own.

    Raises:
        ArtifactError: it wrote others than it says, which nobody would read.
    """
    before = {path.name for path in folder.iterdir()}
    said = list(tuner.save(model, folder, dict(state)))
    wrote = {path.name for path in folder.iterdir()} - before
    if wrote != set(said):
        name = getattr(tuner.spec, "name", type(tuner.spec).__name__)
        raise ArtifactError(
            f"the tuner {name!r} wrote {', '.join(sorted(wrote)) or 'nothing'} and its save() returned"
            f" {', '.join(said) or 'nothing'}; it must return the names of the folders that it wrote, each once"
        )
    return said


def refuse_not_finite(folder: Path) -> None:
    """Look through every tensor file below a folder, whoever wrote it.

    Raises:
        ArtifactError: tensors that are not finite, by file and name.
    """
    from safetensors.torch import load_file

    from lensmith.tensors import not_finite, told_names

    for file in sorted(folder.rglob("*.safetensors")):
        if bad := not_finite(load_file(file)):
            raise ArtifactError(
                f"{file.relative_to(folder)} would hold numbers that are not finite ({told_names(bad)}), so nothing is"
                " written; go on from weights that are, e.g. the last good checkpoint of the run"
            )


def whole_parts(model: MultimodalModel) -> set[str]:
    """The parts of which an artifact holds every weight, trained or not."""
    return {*SMALL_PARTS, *model.changed}


def _plain_state(
    model: MultimodalModel, part: str, state: Mapping[str, Tensor], tuner: Tuner | None
) -> dict[str, Tensor]:
    """A part's own weights by its own names, without what the tuner put around them."""
    plain = {}
    for name, parameter in model.named_parameters():
        known = tuner.plain_name(name) if tuner else name
        if known is not None and known.startswith(f"{part}."):
            plain[known.removeprefix(f"{part}.")] = state.get(name, parameter).detach()
    return plain


def save_model(model: MultimodalModel, folder: Path) -> Path:
    """Write an assembled or loaded model as an artifact of its own.

    It holds connector and splitter, adapters that the model wears, and parts that were changed.

    Raises:
        ArtifactError: the folder exists, or the disk is full.
    """
    state = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
    with atomic_folder(folder) as temporary:
        write_artifact(temporary, model, state, model.tuner, model.tuner.spec if model.tuner else None, Provenance())
    return folder


def data_provenance(sources: Any) -> list[dict[str, Any]]:
    """Path, rows and hash of the sources of a mixture."""
    from lensmith.data.columns import content_hash

    return [
        {"path": str(s.spec.path), "rows": len(s.kept), "of": len(s.rows), "sha256": content_hash(s.spec.path, sha256)}
        for s in sources
    ]


def manifest_data(
    folder: Path, model: ModelSpec, tuner_spec: PartSpec | None, written: list[str], provenance: Provenance
) -> dict[str, Any]:
    """The manifest of a folder that is otherwise complete.

    Args:
        folder: the artifact's, with everything but the manifest.
        model: the parts.
        tuner_spec: what made its adapters, or None.
        written: the sub-folders that take the place of a base's weights, or add to them.
        provenance: see there.
    """
    from importlib.metadata import version

    spec = model.model_copy(update={"conversation": model.conversation or default_conversation(model)})
    kinds = {kind.value: getattr(spec, kind.value) for kind in Kind if hasattr(spec, kind.value)}
    if tuner_spec is not None:
        kinds["tuner"] = tuner_spec
    return {
        "format": FORMAT,
        "lensmith": version("lensmith"),
        "model": spec.model_dump(mode="json"),
        "tuner": tuner_spec.model_dump(mode="json") if tuner_spec is not None else None,
        "plugins": {kind: _provider(Kind(kind), part) for kind, part in kinds.items()},
        "weights": sorted(written),
        "sources": _sources(model, written),
        "stage": provenance.stage,
        "data": provenance.data,
        "step": provenance.step,
        "steps": provenance.steps,
        **provenance.extra,
        "files": inventory(folder),
    }


def _provider(kind: Kind, part: PartSpec) -> dict[str, Any]:
    """Who provides a part and, below `parts`, the parts that it is made of."""
    component = component_of(kind, part)
    found = {"name": component.name, "distribution": component.distribution, "version": component.version}
    inside = {path: {"kind": below.value, **_provider(below, spec)} for path, below, spec in nested_parts(part)}
    return {**found, "parts": inside} if inside else found


def _sources(model: ModelSpec, written: list[str]) -> dict[str, Any]:
    """Size and hash of the weight files that the artifact needs and does not hold."""
    found: dict[str, Any] = {}
    for part in LARGE_PARTS:
        if part in written:
            continue
        for name, source in getattr(model, part).sources().items():
            path = Path(source)
            if path.is_dir():
                files = [p for p in sorted(path.iterdir()) if p.suffix in (".safetensors", ".bin", ".json")]
            else:
                files = [path] if path.is_file() else []
            found[f"{part}.{name}"] = {
                "source": source,
                "files": {
                    p.name: {"size": p.stat().st_size, "sha256": known_sha256(p), "sketch": sketch(p)} for p in files
                },
            }
    return found


def changed_sources(manifest: Manifest, moved: Mapping[str, str] | None = None) -> list[tuple[str, Path]]:
    """Weight and config files outside an artifact that it was trained on and that are others now, by source.

    Files that are gone are not told here: loading the part does. Of a folder without weights (a tokenizer's) the
    artifact has what it needs.

    Args:
        manifest: the artifact's.
        moved: where a source is now, by its name in the manifest, e.g. `language_model.checkpoint`.
    """
    changed = []
    for name, entry in manifest.data["sources"].items():
        place = Path((moved or {}).get(name, entry["source"]))
        weights = {file for file in entry["files"] if not file.endswith(".json")}
        for file in sorted(weights | ({"config.json"} & entry["files"].keys())) if weights else ():
            path = place / file if place.is_dir() else place
            if path.is_file() and sketch(path) != entry["files"][file].get("sketch"):
                changed.append((name, path))
    return changed
