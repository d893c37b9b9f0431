"""Read an artifact back: trust its manifest, name what is missing and who provides it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.artifacts import BUFFERS, MANIFEST, Manifest, changed_sources
from lensmith.dims import LARGE_PARTS, SMALL_PARTS
from lensmith.errors import ArtifactError, LensmithError, SpecError
from lensmith.files import names, verify
from lensmith.manifests import foreign
from lensmith.spec.build import installed, part_class
from lensmith.spec.compose import apply_override
from lensmith.spec.run import ModelSpec
from lensmith.tensors import misfits, not_finite, shapes_of
from lensmith_registry import Kind, Registry, RegistryError
from lensmith_registry.files import installation
from lensmith_registry.installed import SEPARATOR
from lensmith_registry.switches import DISABLE

if TYPE_CHECKING:
    import torch

    from lensmith.interfaces.tuner import Tuner
    from lensmith.model import MultimodalModel


def load(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    merge: bool = False,
    overrides: Sequence[str] = (),
    check: bool = True,
) -> MultimodalModel:
    """Load an artifact, ready for `generate`.

    Args:
        folder: what a stage wrote.
        dtype: floating type of the weights; by default fp32 on the CPU, bf16 on a GPU, where the model goes.
        merge: fold adapters into the weights, for speed.
        overrides: `language_model.checkpoint=…` and the like, where a base has moved.
        check: verify the hashes of the artifact's files, and that bases outside it are those it was trained on.

    Raises:
        ArtifactError: not an artifact, changed or missing files, missing plugins, weights that do not fit.
    """
    import torch

    gpu = torch.cuda.is_available()
    dtype = dtype or (torch.bfloat16 if gpu else torch.float32)
    manifest = Manifest.read(Path(folder))
    model, _ = restore(manifest, dtype=dtype, merge=merge, overrides=overrides, check=check)
    model.requires_grad_(False).eval()
    return model.to("cuda") if gpu else model


def model_spec(manifest: Manifest, overrides: Sequence[str] = ()) -> ModelSpec:
    """The spec of an artifact's model, its trained parts read from the artifact.

    Raises:
        ArtifactError: a part's plugin is not installed; names the package and version that had it.
    """
    data: dict[str, Any] = {"model": copy.deepcopy(manifest.data["model"])}
    _require_plugins(manifest)
    for override in overrides:
        try:
            apply_override(data["model"], override)
        except ValueError as error:
            raise ArtifactError(f"override {override!r}: {error}") from error
    try:
        from lensmith.spec.build import validate
        from lensmith.spec.yaml import Document

        spec = validate([Document(data, str(manifest.folder / "manifest.json"))], installed()).model
    except SpecError as error:
        told = "; ".join(" ".join(str(problem).split()) for problem in error.problems[:3])
        raise ArtifactError(f"{manifest.folder}: its manifest does not fit the installed parts: {told}") from error
    for name in manifest.data["weights"]:
        if not (manifest.folder / name).is_dir():
            raise ArtifactError(
                f"{manifest.folder} is damaged: its manifest names {name}/ among weights, which it lacks"
            )
    listed = {name.split("/")[0] for name in manifest.data["files"] if "/" in name and name.endswith(".safetensors")}
    if unnamed := sorted(listed - {*manifest.data["weights"], *SMALL_PARTS}):
        raise ArtifactError(
            f"{manifest.folder} is damaged: its manifest lists files of {unnamed[0]}/ and not the weights"
        )
    own = sorted(set(manifest.data["weights"]) - {*SMALL_PARTS, *LARGE_PARTS})
    if own and manifest.data["tuner"] is None:
        raise ArtifactError(
            f"{manifest.folder} is damaged: its manifest names {own[0]}/ among weights and no tuner that reads it"
        )
    with _belongs(manifest, "weights in manifest.json"):
        update = {
            part: getattr(spec, part).relocated(manifest.folder / part)
            for part in manifest.data["weights"]
            if part in type(spec).model_fields
        }
        tokenizer = manifest.folder / "tokenizer"
        language_model = update.get("language_model", spec.language_model).with_tokenizer(tokenizer)
        return spec.model_copy(update=update | {"language_model": language_model})


def restore(
    manifest: Manifest,
    *,
    dtype: torch.dtype,
    tuner: Tuner | None = None,
    following: Tuner | None = None,
    merge: bool = False,
    trainable: bool = False,
    overrides: Sequence[str] = (),
    check: bool = True,
) -> tuple[MultimodalModel, Tuner | None]:
    """Assemble an artifact's model and put its trained weights in.

    Args:
        manifest: the artifact's.
        dtype: floating type of the weights.
        tuner: takes the place of the one that the manifest names and that it equals, to train on.
        following: the tuner of the stage that comes next, where it is another one. It decides how weights are held
            where the artifact has neither adapters nor large parts of its own, so that they are read once and right.
        merge: fold adapters into the weights.
        trainable: keep adapters ready for training.
        overrides, check: see `load`.

    Returns:
        The model, and the tuner whose adapters are still on it (None where none is).
    """
    from safetensors.torch import load_file

    from lensmith.assembly import assemble
    from lensmith.parts import implementation

    _refuse_foreign(manifest.folder)
    if check and (problems := verify(manifest.folder, manifest.data["files"])):
        raise ArtifactError(f"{manifest.folder} is damaged: {'; '.join(problems)}")
    if check and (unlisted := sorted(weight_files(manifest.folder) - manifest.data["files"].keys())):
        raise ArtifactError(f"{manifest.folder} is not read: {unlisted[0]} is not in its manifest; delete the file")
    if check:
        _refuse_odd(manifest)
    spec = model_spec(manifest, overrides)
    if check:
        _check_sources(manifest, overrides)
    if tuner is None and manifest.data["tuner"] is not None:
        with _belongs(manifest, "the tuner in manifest.json"):
            described = dict(manifest.data["tuner"])
            tuner_spec = part_class(Kind.TUNER, described["name"], installed()).model_validate(described)
            tuner = implementation(Kind.TUNER, tuner_spec)(tuner_spec)
    reader = tuner
    if following is not None and not set(manifest.data["weights"]) - set(SMALL_PARTS):
        reader = following
    try:
        with _belongs(manifest, _parts_of(manifest)):
            model = assemble(spec, dtype=dtype, tuner=reader, pretrained_connector=False)
    except LensmithError as error:
        hint = _moved(manifest)
        raise ArtifactError(f"{manifest.folder}: {error}{hint}") from error
    problems = []
    for part in SMALL_PARTS:
        file = manifest.folder / f"{part}.safetensors"
        with _belongs(manifest, file.name):
            problems += _fill(part, getattr(model, part), load_file(file) if file.is_file() else {})
    with _belongs(manifest, BUFFERS):
        problems += _fill_buffers(model, manifest.folder / BUFFERS)
    # The folder may be moved or deleted; what is made of this model must not need it.
    model.changed.update(part for part in LARGE_PARTS if part in manifest.data["weights"])
    if tuner is not None:
        own = sorted(set(manifest.data["weights"]) - {*SMALL_PARTS, *LARGE_PARTS})
        try:
            with _belongs(manifest, f"what its tuner {tuner_name(tuner)!r} wrote ({', '.join(own) or 'nothing'})"):
                tuner.load(model, manifest.folder, trainable=trainable)
        except ArtifactError as error:
            problems.append(str(error.__cause__ if isinstance(error.__cause__, (OSError, ValueError)) else error))
    if problems:
        raise ArtifactError("\n  ".join([f"{manifest.folder} does not fit its model:", *problems]))
    if tuner is None:
        return model, None
    if merge:
        fold(model, tuner)
        tuner = None
    model.tuner = tuner
    return model, tuner


def weight_files(folder: Path) -> set[str]:
    """Names of the tensor files of an artifact, a checkpoint's state left out."""
    return {name for name in names(folder) if name.endswith(".safetensors") and Path(name).parts[0] != "resume"}


def _parts_of(manifest: Manifest) -> str:
    """What a model is built of besides its small parts, for messages."""
    own = [part for part in LARGE_PARTS if part in manifest.data["weights"]]
    return " or ".join(["its manifest's model", *(f"{part}/" for part in own), "tokenizer/"])


def fold(model: MultimodalModel, tuner: Tuner) -> None:
    """Put a tuner's adapters into the weights that they adapt, and note which parts an artifact must now hold.

    Raises:
        LensmithError: the adapters are no change of weights, or the tuner left something in the model.
    """
    before = {name for name, _ in model.named_parameters()}
    tuner.merge(model)
    after = {name for name, _ in model.named_parameters()}
    if left := sorted(after - model.plain):
        raise LensmithError(
            f"what {tuner_name(tuner)!r} trained cannot be merged: its merge() leaves {left[0]} in the model"
            f"{f' and {len(left) - 1} more' if len(left) > 1 else ''}; use the artifact as it is"
        )
    # Where adapters were folded in, or a tuner put weights of its own in place, the base alone no longer says what the
    # weights are.
    model.changed |= {name.split(".")[0] for name in before - after} | trained_parts(model, tuner)


def trained_parts(model: MultimodalModel, tuner: Tuner) -> set[str]:
    """The large parts of which a tuner trains something, as its spec says of the bare shapes."""
    trained = tuner.spec.trainable(model.tables)
    return {parameter.name.split(".")[0] for parameter in trained} & set(LARGE_PARTS)


def tuner_name(tuner: Tuner) -> str:
    """What a user calls it."""
    return str(getattr(tuner.spec, "name", type(tuner.spec).__name__))


def _fill_buffers(model: MultimodalModel, file: Path) -> list[str]:
    """Put buffers that moved in training where they belong; says what does not belong, and then puts nothing."""
    from safetensors.torch import load_file

    if not file.is_file():
        return []
    stored = load_file(file)
    own = {f"{part}.{name}": buffer for part in LARGE_PARTS for name, buffer in model.buffers_of(part).items()}
    problems = misfits({name: t.shape for name, t in own.items() if name in stored}, shapes_of(stored))
    if not problems:
        for name, tensor in stored.items():
            own[name].copy_(tensor)
    return [f"{file.name}: {problem}" for problem in problems]


def _refuse_odd(manifest: Manifest) -> None:
    """Look at every tensor of an artifact's files: finite floating numbers where weights belong.

    Raises:
        ArtifactError: naming the file and the tensor.
    """
    from safetensors import safe_open

    for name in sorted(weight_files(manifest.folder)):
        with _belongs(manifest, name), safe_open(manifest.folder / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                tensor = file.get_tensor(key)
                if tensor.ndim > 1 and not tensor.is_floating_point():
                    raise ValueError(f"{key} is of {tensor.dtype}, and weights are floating numbers")
                if not_finite({key: tensor}):
                    raise ValueError(f"{key} is not finite")


def _fill(part: str, module: Any, tensors: dict[str, Any]) -> list[str]:
    """Put tensors into a part; says what is missing, unexpected or of another shape, and then puts nothing."""
    own = module.state_dict()
    problems = misfits(shapes_of(own), shapes_of(tensors))
    if not problems:
        kinds = [n for n, t in tensors.items() if t.is_floating_point() != own[n].is_floating_point()]
        problems += [f"{name} is of {tensors[name].dtype}, not of {own[name].dtype}" for name in kinds]
    if not problems:
        module.load_state_dict(tensors)
    return [f"{part}: {problem}" for problem in problems]


def _refuse_foreign(folder: Path) -> None:
    """Refuse an artifact with links that lead out of it or files that run code when they are read.

    Raises:
        ArtifactError: naming them.
    """
    if found := list(foreign(folder)):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ArtifactError(
            f"{folder} is not read: {'; '.join(found[:3])}{more}; an artifact holds weights as safetensors in files of"
            " its own, so delete them, or ask for an artifact without them"
        )


@contextmanager
def _belongs(manifest: Manifest, what: str) -> Iterator[None]:
    """Whatever a library raises over an artifact's own files is told in one line."""
    try:
        yield
    except LensmithError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        told = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
        raise ArtifactError(
            f"{manifest.folder} cannot be read: {what} holds what does not belong there ({told}); restore the file"
        ) from error


def _check_sources(manifest: Manifest, overrides: Sequence[str]) -> None:
    """Compare the weights outside an artifact with those that it was trained on.

    Raises:
        ArtifactError: naming the files that are others.
    """
    given = dict(override.split("=", 1) for override in overrides)
    if changed := changed_sources(manifest, given):
        files = ", ".join(str(file) for _, file in changed)
        places = " ".join(dict.fromkeys(f"{name}=PATH" for name, _ in changed))
        raise ArtifactError(
            f"{manifest.folder} was trained on other weights: {files} changed since; restore what was there, or say"
            f" where it is with {places} (in Python, check=False takes the weights as they are)"
        )


def _require_plugins(manifest: Manifest) -> None:
    if absent := _absent(manifest):
        raise ArtifactError(f"{manifest.folder}: {'; '.join(absent)}")


def absent_parts(run: Path) -> list[str]:
    """Parts that the artifacts and checkpoints of a run were made with and that are not here: why, and what to do."""
    found: list[str] = []
    for place in sorted({*run.glob(f"*/{MANIFEST}"), *run.glob(f"checkpoints/*/*/{MANIFEST}")}):
        with suppress(ArtifactError):  # one that cannot be read says nothing of parts
            found += _absent(Manifest.read(place.parent))
    return list(dict.fromkeys(found))


def _absent(manifest: Manifest) -> list[str]:
    needed = list(manifest.data["plugins"].items())
    for _, whole in tuple(needed):
        needed += [(part["kind"], part) for part in whole.get("parts", {}).values()]
    registry = installed()
    return list(
        dict.fromkeys(
            _absence(registry, kind, part) for kind, part in needed if part["name"] not in registry.names(kind)
        )
    )


def _absence(registry: Registry, kind: str, part: Mapping[str, Any]) -> str:
    """Why a part that an artifact needs is not here, and what to do."""
    name, distribution, version = part["name"], part["distribution"], part["version"]
    origin = f"{kind} {name!r} of {distribution} {version}"
    with suppress(RegistryError):  # installed, and another distribution has since claimed the name too
        registry.get(kind, f"{distribution}{SEPARATOR}{name}")
        return f"{origin} is there, but so is another {kind} {name!r}; uninstall the other one"
    for plugin in registry.plugins:
        if plugin.distribution != distribution:
            continue
        if plugin.disabled:
            return (
                f"{origin} is installed, but its plugin {plugin.name!r} is disabled; take it out of the environment"
                f" variable {DISABLE}"
            )
        if plugin.error:
            return f"{origin} is installed, but {distribution} {plugin.version} failed: {plugin.error}"
        if not any(c.kind == kind and c.name == name for c in plugin.components):
            return (
                f"{origin} is not in the installed {distribution} {plugin.version}:"
                f" {installation(distribution, version)}"
            )
    return (
        f"{kind} {name!r} is not installed; it came from {distribution} {version}:"
        f" {installation(distribution, version)}"
    )


def _moved(manifest: Manifest) -> str:
    lost = {
        name: entry["source"]
        for name, entry in manifest.data["sources"].items()
        if entry["files"] and not Path(entry["source"]).exists()
    }
    if not lost:
        return ""
    were = "; ".join(f"{name} was {source}" for name, source in lost.items())
    cure = " ".join(f"{name}=PATH" for name in lost)
    return f" ({were}, which is gone; say where it is now with {cure})"
