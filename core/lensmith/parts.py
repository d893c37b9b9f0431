"""From a part's spec to its implementation: the one place that asks the registry for classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lensmith.checkpoints import is_hub_id
from lensmith.errors import LensmithError
from lensmith.io import hub
from lensmith.spec.build import BASES, installed
from lensmith_registry import Component, Kind, PartSpec, RegistryError, isolated

if TYPE_CHECKING:
    from lensmith.interfaces import Conversation, LanguageModel, Tokenizer
    from lensmith.spec.run import ModelSpec, RunSpec, StageSpec

_WITH_SOURCES = ("vision_encoder", "connector", "language_model")
_LONGEST = 400
"""Characters of a library's message; transformers ends some with the names of all models that it has."""


def component_of(kind: Kind, spec: PartSpec) -> Component:
    """The record behind a validated spec.

    Raises:
        LensmithError: the part is not installed any more; the message says what is.
    """
    registry = installed()
    name = getattr(spec, "name", None)
    if name is None:  # made in Python, of the class that the plugin registered
        names = [component.name for component in registry.of_spec(type(spec), kind)]
        name = names[0] if len(names) == 1 else type(spec).__name__
    try:
        return registry.get(kind, name)
    except RegistryError as error:
        raise LensmithError(str(error)) from error


def asked(kind: Kind, spec: PartSpec, method: str, expected: type, call: Callable[[], Any]) -> Any:
    """What a part's own code answers; a fault of that code is told with the package that it came from.

    Args:
        kind, spec: of the part.
        method: that `call` calls, for messages.
        expected: type that the answer must have; None is left to the caller.

    Raises:
        ValueError, OSError, LensmithError: what the part says of its input.
        LensmithError: its code raised anything else, ended the process, or answered something of another type.
    """
    with isolated() as watch:
        try:
            answer = call()
        except (ValueError, OSError, LensmithError, RegistryError):
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and watch.interrupted:
                raise
            raise LensmithError(f"{_origin(kind, spec)} failed in {method}: {type(error).__name__}: {error}") from error
    if answer is not None and not isinstance(answer, expected):
        raise LensmithError(
            f"{_origin(kind, spec)}: {method} returned {type(answer).__name__}, not {expected.__name__};"
            " that is a fault of the package"
        )
    return answer


def _origin(kind: Kind, spec: PartSpec) -> str:
    component = component_of(kind, spec)
    return f"{component} of {component.distribution} {component.version}".rstrip()


def nested_parts(spec: PartSpec) -> Iterator[tuple[str, Kind, PartSpec]]:
    """The parts that a part's spec holds in its turn: the path below it, kind and spec of each."""
    for field in type(spec).model_fields:
        yield from _parts_in(getattr(spec, field), field)


def _parts_in(value: Any, path: str) -> Iterator[tuple[str, Kind, PartSpec]]:
    if isinstance(value, PartSpec):
        yield from ((path, kind, value) for kind, base in BASES.items() if isinstance(value, base))
    elif isinstance(value, (list, tuple, Mapping)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _parts_in(item, f"{path}.{key}")


def implementation(kind: Kind, spec: PartSpec) -> Any:
    """The class that implements a part, e.g. one that another part's spec holds.

    Raises:
        LensmithError: it is not installed or cannot be imported; names the package.
    """
    try:
        return component_of(kind, spec).load()
    except RegistryError as error:
        raise LensmithError(str(error)) from error


def conversation(model: ModelSpec, stage: StageSpec | None = None) -> Conversation:
    """The template of a stage, else of the model, else the language model's default."""
    spec = (stage.conversation if stage else None) or model.conversation or default_conversation(model)
    return cast("Conversation", implementation(Kind.CONVERSATION, spec)(spec))


def default_conversation(model: ModelSpec) -> PartSpec:
    """Spec of the language model's own template.

    Raises:
        LensmithError: that template is not installed.
    """
    from lensmith.spec.build import part_class

    try:
        return part_class(Kind.CONVERSATION, model.language_model.default_conversation(), installed())()
    except (OSError, ValueError) as error:
        raise LensmithError(
            f"model.language_model: no conversation can be chosen for it: {in_one_line(error)}"
        ) from error
    except RegistryError as error:
        raise LensmithError(
            f"default conversation of {getattr(model.language_model, 'name', '')!r}: {error}"
        ) from error


def tokenizer(model: ModelSpec) -> Tokenizer:
    """The language model's tokenizer, without its weights.

    Raises:
        LensmithError: it is not there or cannot be used, in one line.
    """
    require_sources(model, "language_model")  # before torch is imported
    language_model = cast("type[LanguageModel]", implementation(Kind.LANGUAGE_MODEL, model.language_model))
    try:
        return language_model.load_tokenizer(model.language_model)
    except LensmithError:
        raise
    except Exception as error:  # libraries that read files of strangers raise what they like
        raise LensmithError(f"model.language_model: its tokenizer cannot be read: {in_one_line(error)}") from error


def require_sources(model: ModelSpec, *names: str) -> None:
    """See that the repositories of the hub from which parts come are cached or can be asked for.

    Args:
        model: the parts.
        names: which of them; all by default.

    Raises:
        HubError: one is out of reach, with its path in the spec.
    """
    with naming_sources(model):
        for part in names or _WITH_SOURCES:
            for source in getattr(model, part).sources().values():
                if is_hub_id(source) and not Path(source).exists():
                    hub.require(source)


@contextmanager
def naming_sources(model: ModelSpec) -> Iterator[None]:
    """Put the path in the spec before what is said of a repository of the hub that cannot be had."""
    try:
        yield
    except hub.HubError as error:
        for part in _WITH_SOURCES:
            for field, source in getattr(model, part).sources().items():
                if str(error).startswith(repr(source)):
                    raise hub.HubError(f"model.{part}.{field}: {error}") from error
        raise


def in_one_line(error: BaseException) -> str:
    """What a library says of a file, as one line of bounded length; with the error's kind where it says little."""
    text = " ".join(str(error).split())
    if not isinstance(error, (OSError, ValueError)) or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def stage_of(spec: RunSpec, name: str | None) -> StageSpec:
    """A stage by name; the only one where none is named.

    Raises:
        LensmithError: no such stage, with the names there are.
    """
    if name is None and spec.stages:
        return next(iter(spec.stages.values()))
    if name not in spec.stages:
        raise LensmithError(f"there is no stage {name!r}; stages: {', '.join(spec.stages) or 'none'}")
    return spec.stages[name]
