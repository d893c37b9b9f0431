"""Join the run spec with the installed parts: live unions, validation with every mistake at once, JSON Schema."""

from __future__ import annotations

import copy
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, BeforeValidator, Field, SerializeAsAny, ValidationError, create_model
from pydantic_core import PydanticCustomError

from lensmith.errors import SpecError
from lensmith.interfaces.specs import (
    ConnectorSpec,
    ConversationSpec,
    ImageSplitterSpec,
    LanguageModelSpec,
    TunerSpec,
    VisionEncoderSpec,
)
from lensmith.spec import run
from lensmith.spec.compose import Override, compose
from lensmith.spec.messages import Choice, told
from lensmith.spec.run import ModelSpec, RunSpec, StageSpec
from lensmith.spec.yaml import Document
from lensmith_registry import Kind, PartSpec, Registry, RegistryError, discover
from lensmith_registry.installed import SEPARATOR


@lru_cache(maxsize=1)
def installed() -> Registry:
    """The registry of what is installed, discovered once."""
    return discover()


BASES: dict[Kind, type[PartSpec]] = {
    Kind.VISION_ENCODER: VisionEncoderSpec,
    Kind.IMAGE_SPLITTER: ImageSplitterSpec,
    Kind.CONNECTOR: ConnectorSpec,
    Kind.LANGUAGE_MODEL: LanguageModelSpec,
    Kind.TUNER: TunerSpec,
    Kind.CONVERSATION: ConversationSpec,
}
"""What the spec of a part must derive from to be asked for its shape.

A field of a part's spec that is annotated with one of these (`list[VisionEncoderSpec]`, `ConnectorSpec | None`, …)
holds parts in its turn: where a spec is read it becomes a choice among what is installed.
"""


def load_spec(
    source: str | Path | Mapping[str, Any] | RunSpec,
    overrides: Sequence[Override] = (),
    registry: Registry | None = None,
) -> RunSpec:
    """Read and validate a spec.

    Args:
        source: a file, a mapping, or a spec that is validated again with the overrides.
        overrides: `dotted.path=value`, or pairs of a path and its value.
        registry: the parts to choose from; by default all that are installed.

    Raises:
        SpecError: every mistake, by path, with the line and the allowed values.
    """
    return read_spec(source, overrides, registry)[0]


def read_spec(
    source: str | Path | Mapping[str, Any] | RunSpec,
    overrides: Sequence[Override] = (),
    registry: Registry | None = None,
) -> tuple[RunSpec, Sequence[Document]]:
    """`load_spec`, with the documents that it came from, for `place`."""
    registry = registry or installed()
    if isinstance(source, RunSpec):
        source = dump(source)
    documents = compose(Path(source) if isinstance(source, str) else source, overrides, registry)
    return validate(documents, registry), documents


def dump(spec: RunSpec) -> dict[str, Any]:
    """The spec as plain data that `load_spec` reads back to an equal spec."""
    return spec.model_dump(mode="json", exclude_unset=False)


def validate(documents: Sequence[Document], registry: Registry) -> RunSpec:
    """Validate merged data (`documents[0]`); the other documents only lend their lines to messages."""
    data = documents[0].data
    try:
        return run_spec_class(registry, _named_parts(data, registry)).model_validate(data)
    except ValidationError as error:
        raise SpecError(told(error, data, documents, run_spec_class(registry))) from None


_KINDS = tuple(kind.value for kind in Kind)


def part_class(component_kind: Kind, name: str, registry: Registry) -> type[PartSpec]:
    """A part's spec class with its `name` field.

    Raises:
        RegistryError: unknown, claimed twice, or broken.
    """
    return _tagged(component_kind, name, registry.get(component_kind, name).spec, registry)


def _named_parts(data: Any, registry: Registry) -> frozenset[str]:
    """The names that a spec gives to its parts, known or not; those inside of parts left out."""
    model = data.get("model") if isinstance(data, Mapping) else None
    stages = data.get("stages") if isinstance(data, Mapping) else None
    sections = [model, *(stages.values() if isinstance(stages, Mapping) else ())]
    names: set[str] = set()
    for value in (v for s in sections if isinstance(s, Mapping) for key, v in s.items() if key in _KINDS):
        name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", value)
        if isinstance(name, PartSpec):  # made in Python, where only its class is known
            names.update(c.name for c in registry.of_spec(type(name)))
        elif isinstance(name, str):
            names.add(name)
    # A name may be qualified where it need not be: `distribution:name`.
    for name in [name for name in names if SEPARATOR in name]:
        for kind in Kind:
            with suppress(RegistryError):
                names.add(registry.get(kind, name).name)
    return frozenset(names)


def run_spec_class(registry: Registry, named: frozenset[str] | None = None) -> type[RunSpec]:
    """`RunSpec` whose part fields are unions of the registered parts, told apart by `name`.

    Args:
        registry: the parts.
        named: build the choice of these parts alone, which saves much of the time that reading a spec takes; by
            default of all.
    """
    known = registry.__dict__.setdefault("_run_spec_classes", {})
    if named in known:
        return typing.cast(type[RunSpec], known[named])
    model: type[ModelSpec] = create_model(
        "ModelSpec",
        __base__=ModelSpec,
        __module__=ModelSpec.__module__,
        __doc__=ModelSpec.__doc__,
        vision_encoder=(_part(Kind.VISION_ENCODER, registry, named=named), _field(ModelSpec, "vision_encoder")),
        image_splitter=(_part(Kind.IMAGE_SPLITTER, registry, named=named), _field(ModelSpec, "image_splitter")),
        connector=(_part(Kind.CONNECTOR, registry, named=named), _field(ModelSpec, "connector")),
        language_model=(_part(Kind.LANGUAGE_MODEL, registry, named=named), _field(ModelSpec, "language_model")),
        conversation=(
            _part(Kind.CONVERSATION, registry, named=named) | None,
            _field(ModelSpec, "conversation", default=None),
        ),
    )
    stage: type[StageSpec] = create_model(
        "StageSpec",
        __base__=StageSpec,
        __module__=StageSpec.__module__,
        __doc__=StageSpec.__doc__,
        tuner=(_part(Kind.TUNER, registry, named=named), _field(StageSpec, "tuner")),
        conversation=(
            _part(Kind.CONVERSATION, registry, named=named) | None,
            _field(StageSpec, "conversation", default=None),
        ),
    )
    built: type[RunSpec] = create_model(
        "RunSpec",
        __base__=RunSpec,
        __module__=RunSpec.__module__,
        __doc__=RunSpec.__doc__,
        model=(model, _field(RunSpec, "model")),
        stages=(dict[run.StageName, stage], _field(RunSpec, "stages", default={})),
    )
    known[named] = built
    return built


def _field(owner: type[BaseModel], name: str, **kwargs: Any) -> Any:
    return Field(description=owner.model_fields[name].description, **kwargs)


def _tagged(kind: Kind, name: str, spec: type[PartSpec], registry: Registry) -> type[PartSpec]:
    nested = {
        field: (_live(info.annotation, registry), copy.copy(info))
        for field, info in spec.model_fields.items()
        if _holds_parts(info.annotation)
    }
    # What a nested part may be depends on the registry; everything else about a class does not.
    owner: Any = registry if nested else spec
    key = f"_lensmith_{kind.value}_{name}"
    cached = vars(owner).get(key)
    if cached is None:
        tag = Field(default=name, description=f"Name of the {kind.value.replace('_', ' ')}.")
        fields: dict[str, Any] = {"name": (Literal[name], tag), **nested}
        cached = create_model(spec.__name__, __base__=spec, __doc__=spec.__doc__, __module__=spec.__module__, **fields)
        # Not setattr: a pydantic class has its own, which keeps what it does not know out.
        (type if isinstance(owner, type) else object).__setattr__(owner, key, cached)
    return typing.cast(type[PartSpec], cached)


def _holds_parts(annotation: Any) -> bool:
    """Whether a field's annotation names a base of parts."""
    return annotation in BASES.values() or any(_holds_parts(a) for a in typing.get_args(annotation))


def _live(annotation: Any, registry: Registry) -> Any:
    """The annotation with every base of parts replaced by the choice of what is installed."""
    for kind, base in BASES.items():
        if annotation is base:
            return _part(kind, registry, nested=True)
    if not _holds_parts(annotation):
        return annotation
    arguments = tuple(_live(argument, registry) for argument in typing.get_args(annotation))
    origin: Any = typing.get_origin(annotation)
    return Union[arguments] if origin is UnionType else origin[arguments]  # noqa: UP007 - built at run time


class _NoPart(PartSpec):
    """Keeps the choice of a single part a choice; never chosen."""

    name: Literal[""] = ""


def _part(kind: Kind, registry: Registry, *, nested: bool = False, named: frozenset[str] | None = None) -> Any:
    usable = registry.choices(kind, BASES[kind], named)
    if nested:  # one level: parts made of parts of parts would have no end
        usable = [c for c in usable if not any(_holds_parts(f.annotation) for f in c.spec.model_fields.values())]
    wanted = [c for c in usable if named is None or c.name in named]
    classes = {component.name: _tagged(kind, component.name, component.spec, registry) for component in wanted}

    def select(value: Any) -> Any:
        if isinstance(value, tuple(classes.values())):
            return value
        if isinstance(value, PartSpec):
            # Not model_dump(), which would turn nested parts into mappings without their names.
            given = {field: getattr(value, field) for field in value.model_fields_set - {"name"}}
            value = {"name": _name_of(kind, value, registry), **given}
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            names = ", ".join(classes if nested else registry.names(kind)) or "none, for no such part is installed"
            raise PydanticCustomError("part", "{text}", {"text": f"say which {kind} by its name: one of {names}"})
        try:
            component = registry.get(kind, value["name"])
        except RegistryError as error:
            raise PydanticCustomError("part", "{text}", {"text": str(error)}) from None
        if component.name != value["name"]:
            value = {**value, "name": component.name}
        if component not in usable:
            text = (
                f"{component} of {component.distribution} {component.version} cannot be used: its spec"
                f" {component.spec.__name__} must derive from lensmith.{BASES[kind].__name__}"
            )
            if issubclass(component.spec, BASES[kind]):
                text = f"{component} is made of parts itself and cannot be one of them; one of {', '.join(classes)}"
            raise PydanticCustomError("part", "{text}", {"text": text})
        return value

    choice = Choice(kind, classes)
    if not classes:
        return Annotated[SerializeAsAny[PartSpec], BeforeValidator(select), choice]
    choices = (*classes.values(), *((_NoPart,) if len(classes) < len(usable) else ()))
    union: Any = Union[choices]  # noqa: UP007 - built at run time
    names: Any = Literal[tuple(classes)]
    # Without the discriminator, a file that extends another one may leave the name to it.
    written = union | names
    if len(choices) > 1:
        union = Annotated[union, Field(discriminator="name")]
    before = BeforeValidator(select, json_schema_input_type=written)
    return Annotated[SerializeAsAny[union], before, choice]  # type: ignore[misc]


def _name_of(kind: Kind, value: PartSpec, registry: Registry) -> str:
    named = getattr(value, "name", None)  # of a class that another registry made
    names = [component.name for component in registry.of_spec(type(value), kind)]
    if not names and named in registry.names(kind) and isinstance(value, registry.get(kind, named).spec):
        names = [named]
    if len(names) == 1:
        return names[0]
    text = f"{type(value).__name__} is not the spec of an installed {kind}"
    if names:
        text = f"{type(value).__name__} is the spec of {' and '.join(names)}; give a mapping with the `name` you mean"
    raise PydanticCustomError("part", "{text}", {"text": text})
