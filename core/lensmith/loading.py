"""Read an artifact back: trust its manifest, name what is missing and who provides it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.artifacts import MANIFEST, Manifest, changed_sources
from lensmith.dims import LARGE_PARTS, SMALL_PARTS
from lensmith.errors import ArtifactError, LensmithError, SpecError
from lensmith.files import names, verify
from lensmith.spec.build import installed, part_class
from lensmith.spec.compose import apply_override
from lensmith.spec.run import ModelSpec
from lensmith.tensors import misfits, shapes_of
from lensmith_registry import Kind, Registry, RegistryError
from lensmith_registry.installed import SEPARATOR
from lensmith_registry.switches import DISABLE

if TYPE_CHECKING:
    import torch

    from lensmith.interfaces.tuner import Tuner
    from lensmith.model import MultimodalModel

_PICKLES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}


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
        raise ArtifactError(f"{manifest.folder}: its manifest does not fit the installed parts: {error}") from error
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

    _refuse_pickles(manifest.folder)
    if check and (problems := verify(manifest.folder, manifest.data["files"])):
        raise ArtifactError(f"{manifest.folder} is damaged: {'; '.join(problems)}")
    spec = model_spec(manifest, overrides)
    if check:
        _check_sources(manifest, overrides)
    if tuner is None and manifest.data["tuner"] is not None:
        described = dict(manifest.data["tuner"])
        tuner_spec = part_class(Kind.TUNER, described["name"], installed()).model_validate(described)
        tuner = implementation(Kind.TUNER, tuner_spec)(tuner_spec)
    reader = tuner
    if following is not None and not set(manifest.data["weights"]) - set(SMALL_PARTS):
        reader = following
    try:
        model = assemble(spec, dtype=dtype, tuner=reader, pretrained_connector=False)
    except LensmithError as error:
        hint = _moved(manifest)
        raise ArtifactError(f"{manifest.folder}: {error}{hint}") from error
    problems = []
    for part in SMALL_PARTS:
        file = manifest.folder / f"{part}.safetensors"
        problems += _fill(part, getattr(model, part), load_file(file) if file.is_file() else {})
    # The folder may be moved or deleted; what is made of this model must not need it.
    model.changed.update(part for part in LARGE_PARTS if part in manifest.data["weights"])
    if tuner is not None:
        try:
            tuner.load(model, manifest.folder, trainable=trainable)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    if problems:
        raise ArtifactError("\n  ".join([f"{manifest.folder} does not fit its model:", *problems]))
    if tuner is None:
        return model, None
    if merge:
        fold(model, tuner)
        tuner = None
    model.tuner = tuner
    return model, tuner


def fold(model: MultimodalModel, tuner: Tuner) -> None:
    """Put a tuner's adapters into the weights that they adapt, and note which parts an artifact must now hold.

    Raises:
        LensmithError: the adapters are no change of weights.
    """
    before = {name for name, _ in model.named_parameters()}
    tuner.merge(model)
    # Where adapters were folded in, the base alone no longer says what the weights are.
    model.changed |= {name.split(".")[0] for name in before - {name for name, _ in model.named_parameters()}}


def _fill(part: str, module: Any, tensors: dict[str, Any]) -> list[str]:
    """Put tensors into a part; says what is missing, unexpected or of another shape, and then puts nothing."""
    problems = misfits(shapes_of(module.state_dict()), shapes_of(tensors))
    if not problems:
        module.load_state_dict(tensors)
    return [f"{part}: {problem}" for problem in problems]


def _refuse_pickles(folder: Path) -> None:
    """Refuse an artifact with files of formats that run code when they are read. A checkpoint's `resume/` is not read.

    Raises:
        ArtifactError: naming them.
    """
    pickles = sorted(
        name for name in names(folder) if Path(name).suffix in _PICKLES and Path(name).parts[0] != "resume"
    )
    if pickles:
        raise ArtifactError(
            f"{folder} is not read: {', '.join(pickles)} may be pickles, which run code when they are read; an artifact"
            " holds weights as safetensors, so delete them, or ask for an artifact without them"
        )


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
                f" pip install {distribution}=={version}"
            )
    return (
        f"{kind} {name!r} is not installed; it came from {distribution} {version}:"
        f" pip install {distribution}=={version}"
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
