"""What can be known to be wrong before a weight is loaded: dimensions, files, plans. No torch where parts have
closed forms."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lensmith.checkpoints import import_hint, is_hub_id, locations
from lensmith.dims import Dimensions, connector_shape, shape_of
from lensmith.errors import LensmithError, Problem, SpecError
from lensmith.interfaces.shapes import LanguageShape, VisionShape
from lensmith.interfaces.specs import IncompatibleParts, LanguageModelSpec, VisionEncoderSpec
from lensmith.parts import default_conversation, nested_parts
from lensmith.spec.build import read_spec
from lensmith.spec.first_images import missing_images
from lensmith.spec.messages import place
from lensmith.spec.run import RunSpec, StageSpec
from lensmith.spec.stage_check import logging_problems, stage_problems
from lensmith.spec.template_check import template_problems
from lensmith_registry import Kind, RegistryError

# ruff: noqa: PTH112, PTH113 - pathlib's own tests raise where a name is too long


def check(spec: RunSpec, *, measure: bool = False) -> list[Problem]:
    """Everything that is wrong with a valid spec.

    Args:
        spec: the spec.
        measure: also build parts without closed forms on the meta device (imports torch); else what depends on
            their sizes is left to `plan` and `train`.
    """
    problems: list[Problem] = []
    dimensions = _dimensions(spec, problems, measure)
    _try(problems, "model.conversation", lambda: _conversation(spec))
    problems += _missing_paths(spec, problems)
    rows = dimensions.language_model.vocabulary if dimensions is not None else None
    if not any(problem.path.startswith("model.language_model") for problem in problems):
        problems += template_problems(spec, rows)
    if spec.start_from is not None and not os.path.isfile(spec.start_from / "manifest.json"):
        told = f"{spec.start_from} is not an artifact (it has no manifest.json){import_hint(spec.start_from)}"
        problems.append(Problem("start_from", told))
    unmet = spec.model.language_model.unmet()
    problems += [Problem(f"model.language_model.{field}", message) for field, message in unmet.items()]
    problems += logging_problems("logging", spec.logging)
    for name, stage in spec.stages.items():
        problems += _stage(f"stages.{name}", stage, dimensions)
        problems += _cache(f"stages.{name}.cache", spec, stage, dimensions)
    if dimensions is not None and not spec.stages:  # else each stage says it of its rows
        too_long = _too_long(dimensions, dimensions.language_model.context_length)
        problems += [Problem("model.language_model", too_long)] if too_long else []
    return problems


def checked(source: str | Path | Mapping[str, Any] | RunSpec, overrides: Sequence[str] = ()) -> RunSpec:
    """`load_spec`, then `check`.

    Raises:
        SpecError: every problem, with file and line where the spec has them.
    """
    spec, documents = read_spec(source, overrides)
    if problems := check(spec):
        raise SpecError([replace(p, place=place(_keys(p.path), documents)) for p in problems])
    return spec


def _keys(path: str) -> tuple[str | int, ...]:
    return tuple(int(key) if key.isdigit() else key for key in path.split(".") if key)


def _missing_paths(spec: RunSpec, told: Sequence[Problem]) -> list[Problem]:
    """Every field of the model's parts that names a place on this machine where nothing is."""
    problems = []
    for kind in Kind:
        part = getattr(spec.model, kind.value, None)
        if part is None or (spec.start_from is not None and kind == Kind.CONNECTOR):
            continue  # else the artifact holds the connector's weights
        whole = [("", part), *((f".{path}", nested) for path, _, nested in nested_parts(part))]
        for below, one in whole:
            for field, source in locations(one):
                if os.path.exists(source) or is_hub_id(source):  # noqa: PTH110
                    continue
                path = f"model.{kind.value}{below}.{field}"
                if not any(source in problem.message for problem in told):
                    problems.append(Problem(path, f"{source} does not exist"))
    return problems


def _dimensions(spec: RunSpec, problems: list[Problem], measure: bool) -> Dimensions | None:
    model = spec.model
    encoder: VisionShape | None = _shape(Kind.VISION_ENCODER, model.vision_encoder, problems, measure)
    language: LanguageShape | None = _shape(Kind.LANGUAGE_MODEL, model.language_model, problems, measure)
    if not (encoder and language):
        return None
    try:
        connector = connector_shape(model.connector, encoder, language.width, measure=measure)
        if connector is None:
            return None
        dimensions = Dimensions(model, encoder, connector, language)
        dimensions.layout(*dimensions.encoder.image_size)
        dimensions.largest()
        return dimensions
    except IncompatibleParts as error:
        problems.append(Problem("model", str(error)))
    except (ValueError, OSError, LensmithError) as error:
        problems.append(Problem("model.connector", str(error)))
    return None


def _shape(kind: Kind, part: VisionEncoderSpec | LanguageModelSpec, problems: list[Problem], measure: bool) -> Any:
    try:
        return shape_of(kind, part, measure=measure)
    except (ValueError, OSError, LensmithError) as error:
        problems.append(Problem(f"model.{kind}", str(error)))
        return None


def _conversation(spec: RunSpec) -> None:
    if spec.model.conversation is None:
        default_conversation(spec.model)


def _stage(path: str, stage: StageSpec, dimensions: Dimensions | None) -> list[Problem]:
    problems: list[Problem] = []
    if not stage.data.sources:
        text = "names no file of rows; say which, e.g. [{path: rows.jsonl, images: pictures}]"
        problems.append(Problem(f"{path}.data.sources", text))
    for number, source in enumerate(stage.data.sources):
        here = f"{path}.data.sources.{number}"
        if not os.path.isfile(source.path):
            problems.append(Problem(f"{here}.path", f"{source.path} does not exist; it names a file of rows"))
        elif not os.access(source.path, os.R_OK):
            problems.append(Problem(f"{here}.path", f"{source.path} cannot be read (permissions)"))
        root = source.images or source.path.parent
        if source.images is not None and not os.path.isdir(root):
            problems.append(
                Problem(f"{here}.images", f"{root} does not exist; it names the folder that `image` paths start from")
            )
        elif told := missing_images(source.path, root, all_of_them=stage.data.bad_rows == "skip"):
            problems.append(Problem(f"{here}.images", told))
    config = stage.deepspeed.config
    if config is not None and not os.path.isfile(config):
        problems.append(Problem(f"{path}.deepspeed.config", f"{config} does not exist"))
    problems += stage_problems(path, stage)
    micro = stage.batch.micro
    if micro is not None and (micro > stage.batch.size or stage.batch.size % micro):
        problems.append(
            Problem(
                f"{path}.batch.micro",
                f"a step of {stage.batch.size} rows (batch.size) cannot be taken {micro} at a"
                f" time; set batch.micro to {_divisors_near(stage.batch.size, micro)}, or batch.size to"
                f" {-(-stage.batch.size // micro) * micro}",
            )
        )
    problems += [Problem(f"{path}.tuner", message) for message in stage.tuner.unmet(zero=stage.deepspeed.zero)]
    obstacles = stage.tuner.obstacles(activation_checkpointing=stage.activation_checkpointing)
    problems += [Problem(f"{path}.tuner", message) for message in obstacles]
    if dimensions is None:
        return problems
    tables = dimensions.parameters()
    _try(problems, f"{path}.tuner", lambda: stage.tuner.check(tables))
    context = dimensions.language_model.context_length
    limit = min(stage.data.max_length or context, context)
    left_out = "skip" in (stage.data.long_rows, stage.data.bad_rows)
    if too_long := _too_long(dimensions, limit, left_out=left_out):
        problems.append(Problem(f"{path}.data.max_length", too_long))
    return problems


def _divisors_near(size: int, wanted: int) -> str:
    """The sizes of a micro-batch next to one that does not go into a step."""
    divisors = {d for n in range(1, math.isqrt(size) + 1) if size % n == 0 for d in (n, size // n)}
    below = max((d for d in divisors if d < wanted), default=1)
    above = min((d for d in divisors if d > wanted), default=below)
    return f"{below}" if below == above else f"{below} or {above}"


def _cache(path: str, spec: RunSpec, stage: StageSpec, dimensions: Dimensions | None) -> list[Problem]:
    if not stage.cache.features:
        return []
    from lensmith.features.refusals import drawn_views, encoder_trains

    why = drawn_views(spec.model.vision_encoder, spec.model.image_splitter)
    if why is None and dimensions is not None:
        try:
            why = encoder_trains(stage.tuner.trainable(dimensions.parameters()))
        except (ValueError, OSError, LensmithError):
            return []  # told of the tuner
    return [Problem(path, why)] if why else []


def _too_long(dimensions: Dimensions, limit: int, *, left_out: bool = False) -> str:
    """What is wrong where a picture takes more positions than a row may, else nothing.

    Args:
        dimensions: of the model.
        limit: positions that a row may take.
        left_out: rows that do not fit are left out, so that only the usual picture must fit.
    """
    usual, largest = dimensions.layout(*dimensions.encoder.image_size), dimensions.largest()
    layout = usual if left_out else largest
    if layout.tokens < limit:
        return ""
    picture, cures = "one picture", "raise it, or choose an encoder or connector with fewer tokens"
    if usual.tokens != largest.tokens:
        height, width = layout.image_size
        picture = f"a picture of {width} x {height} pixels (width x height)"
        cures += " or a splitter with fewer tiles"
        cures += "" if left_out else ", or leave out the rows that do not fit (data.long_rows: skip)"
    parts = (dimensions.spec.image_splitter, dimensions.spec.language_model)
    splitter, language_model = (getattr(part, "name", "") for part in parts)
    context = dimensions.language_model.context_length
    return (
        f"{picture} takes {layout.tokens} positions and a row may take {limit}; {cures} (image_splitter {splitter!r}"
        f" lays pictures out, language_model {language_model!r} has a context length of {context})"
    )


def _try(problems: list[Problem], path: str, action: Callable[[], object]) -> None:
    try:
        action()
    except (ValueError, OSError, LensmithError, RegistryError) as error:
        problems.append(Problem(path, str(error)))
