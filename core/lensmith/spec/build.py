"""Join the run spec with the installed parts: live unions, validation with every mistake at once, JSON Schema."""

from __future__ import annotations

import copy
import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, BeforeValidator, Field, SerializeAsAny, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticCustomError

from lensmith.errors import Problem, SpecError
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
from lensmith.spec.run import ModelSpec, RunSpec, StageSpec
from lensmith.spec.yaml import Document, SpecKeys
from lensmith_registry import Kind, PartSpec, Registry, RegistryError, discover


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


@dataclass(frozen=True, eq=False)
class _Choice:
    """Stands in an annotation beside the union of the parts to choose from."""

    kind: Kind
    classes: Mapping[str, type[PartSpec]]


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
        problems = [_problem(detail, data, documents, registry) for detail in error.errors(include_url=False)]
        raise SpecError(problems) from None


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
        if component not in usable:
            text = (
                f"{component} of {component.distribution} {component.version} cannot be used: its spec"
                f" {component.spec.__name__} must derive from lensmith.{BASES[kind].__name__}"
            )
            if issubclass(component.spec, BASES[kind]):
                text = f"{component} is made of parts itself and cannot be one of them; one of {', '.join(classes)}"
            raise PydanticCustomError("part", "{text}", {"text": text})
        return value

    choice = _Choice(kind, classes)
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


def _problem(detail: ErrorDetails, data: Any, documents: Sequence[Document], registry: Registry) -> Problem:
    path = _without_tags(tuple(key for key in detail["loc"] if key != "[key]"), data, registry)
    # What is missing has no line; a line for it would be of another part, which this one has replaced.
    said = {"missing": path[:-1], "part": (*path, "name")}.get(detail["type"], path)
    return Problem(".".join(map(str, path)), _message(detail, path, data, registry), place(said, documents))


def place(path: SpecKeys, documents: Sequence[Document]) -> str:
    """Where a value was said: by the most specific document that settles it, else nearest to it."""
    nearest, longest = documents[0], 0
    for document in documents:
        length, settled = document.reach(path)
        if settled:
            return document.place(path[:length])
        if length > longest:
            nearest, longest = document, length
    return nearest.place(path[:longest])


def _without_tags(loc: SpecKeys, data: Any, registry: Registry) -> SpecKeys:
    """pydantic puts a union's tag into the path; a user never wrote it there."""
    path: list[int | str] = []
    here, value = _below(run_spec_class(registry)), data
    tag_follows = False
    for element in loc:
        if tag_follows and element == _name(value):
            tag_follows = False
            continue
        here, value = _step(here, value, element)
        tag_follows = isinstance(here, _Choice) and len(here.classes) > 1
        path.append(element)
    return tuple(path)


def _message(detail: ErrorDetails, path: SpecKeys, data: Any, registry: Registry) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        fields = _fields_at(path[:-1], data, registry)
        close = difflib.get_close_matches(str(path[-1]), fields, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"there is no such field.{hint} Fields here: {', '.join(fields) or 'none'}."
    if kind == "missing":
        fields = _fields_at(path[:-1], data, registry)
        return f"is required{_meaning(path, data, registry)}. Fields here: {', '.join(fields)}."
    if kind == "part":
        return str(context["text"])
    shown = repr(detail["input"])
    if kind == "model_type":
        return f"should be a mapping; fields here: {', '.join(_fields_at(path, data, registry))}; it is {shown}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    said = shown if len(shown) <= 80 else shown[:77] + "..."
    return f"{message}; it is {said}{_meaning(path, data, registry)}"


def _meaning(path: SpecKeys, data: Any, registry: Registry) -> str:
    """In brackets, what the field of a part means to which a path leads: the first clause of its description."""
    here, value = _below(run_spec_class(registry)), data
    text = ""
    owner: Any
    for element in path:
        owner = here.classes.get(_name(value)) if isinstance(here, _Choice) else here
        if _is_model(owner) and issubclass(owner, PartSpec):
            text = owner.field_descriptions().get(str(element), "")
        here, value = _step(here, value, element)
    clause = re.split(r"[.:;](?= |$)", " ".join(text.split()))[0]
    return f" ({clause})" if clause else ""


def _fields_at(path: SpecKeys, data: Any, registry: Registry) -> list[str]:
    """The fields that the section at `path` may have."""
    here, value = _below(run_spec_class(registry)), data
    for element in path:
        here, value = _step(here, value, element)
    if isinstance(here, _Choice):
        here = here.classes.get(_name(value))
    if _is_model(here):
        names = list(here.model_fields)
        return (["name"] if "name" in names else []) + [n for n in names if n != "name"]
    return []


def _step(here: Any, value: Any, element: int | str) -> tuple[Any, Any]:
    """What may stand at a key or position of a section, list or part, and what does."""
    if isinstance(here, _Choice):
        here = here.classes.get(_name(value))
    if _is_model(here):
        field = here.model_fields.get(element)
        here = _below(field.annotation, field.metadata) if field else None
    else:
        arguments = typing.get_args(here)
        here = _below(arguments[-1]) if arguments else None
    if isinstance(value, Mapping):
        return here, value.get(element)
    inside = isinstance(value, list) and isinstance(element, int) and element < len(value)
    return here, value[element] if inside else None


def _below(annotation: Any, metadata: Sequence[Any] = ()) -> Any:
    """An annotation without what surrounds it: a model, a list or mapping, or the choice of a part."""
    for mark in metadata:
        if isinstance(mark, _Choice):
            return mark
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        return _below(arguments[0], arguments[1:])
    if typing.get_origin(annotation) in (Union, UnionType):
        return _below(next(a for a in arguments if a is not type(None)))
    return annotation


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _name(value: Any) -> Any:
    return value.get("name") if isinstance(value, Mapping) else value
