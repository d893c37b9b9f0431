"""What a plugin registers: a frozen record that names a part without importing it."""

from __future__ import annotations

import copy
import enum
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ConfigDict
from pydantic.errors import PydanticUndefinedAnnotation

from lensmith_registry.described import Described
from lensmith_registry.errors import BrokenPluginError, RegistryError
from lensmith_registry.isolation import isolated

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")
_IMPLEMENTATION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


class Kind(enum.StrEnum):
    """The roles that a part can play."""

    VISION_ENCODER = "vision_encoder"
    IMAGE_SPLITTER = "image_splitter"
    CONNECTOR = "connector"
    LANGUAGE_MODEL = "language_model"
    TUNER = "tuner"
    CONVERSATION = "conversation"
    BENCHMARK = "benchmark"
    IMPORTER = "importer"
    EXPORTER = "exporter"

    def __str__(self) -> str:
        return self.value


class PartSpec(Described):
    """Base of every part's spec: the fields that a user may write below the part's name.

    Unknown fields are refused and instances are frozen. The name under which a part is registered is not a
    field of the class: it is added where a spec file is read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def tiny(cls, folder: Path) -> PartSpec:
        """The part at its smallest, for the conformance kit (`lensmith plugin test`): a few layers of small width.

        By default every field's default. A part with large defaults names small sizes; one that names a checkpoint
        writes one of random weights first. What needs torch is imported inside.

        Args:
            folder: an empty folder to write to.
        """
        return cls()


class _SpecOfRecord:
    """The `spec` of a record: the class, or its address until somebody asks for the class."""

    def __get__(self, record: Component | None, owner: type[Component]) -> Any:
        if record is None:
            return self
        spec = record.__dict__["spec"]
        if isinstance(spec, str):
            spec = record.__dict__["spec"] = record._import_spec(spec)
        return spec

    def __set__(self, record: Component, value: type[PartSpec] | str) -> None:
        record.__dict__["spec"] = value


@dataclass(frozen=True, repr=False)
class Component:
    """One part that a plugin offers.

    Args:
        kind: the role it plays.
        name: the exact name a spec uses, lower-case letters, digits, `_`, `.` and `-`.
        spec: a `PartSpec` subclass, light to import (pydantic only); or where it is, `"package.module:Class"`, which
            spares commands that do not use the part the time to import it. Reading it gives the class either way.
        implementation: `"package.module:Class"`, imported only when the part is built.
        summary: one line for `lensmith list`.
        distribution, version: where it came from; filled in by discovery.
        paper: where the method comes from, e.g. `LLaVA-1.5 (Liu et al. 2023, arXiv 2310.03744), section 3.1`; one line.
        example: the part as a spec file would write it below its kind, in YAML; by default its name alone.
        deprecated: what to use instead, e.g. `use mlp`; empty for a part that stays. Told by list, show and check.
        known_as: what other tools call it, and what to write here for each, e.g. `{"mlp2x_gelu": "{name: mlp, depth:
            2}"}`; `*` stands for anything. Told where a name is not there, and read by `lensmith migrate`.

    Two records are equal where all but their spec classes are.

    Raises:
        RegistryError: when a field is malformed.
    """

    kind: Kind
    name: str
    spec: type[PartSpec]
    implementation: str
    summary: str
    distribution: str = ""
    version: str = ""
    paper: str = ""
    example: str = ""
    deprecated: str = ""
    known_as: Mapping[str, str] = field(default_factory=dict)

    if TYPE_CHECKING:  # what it takes is wider than what its fields then are

        def __init__(
            self,
            kind: Kind | str,
            name: str,
            spec: type[PartSpec] | str,
            implementation: str,
            summary: str,
            distribution: str = "",
            version: str = "",
            paper: str = "",
            example: str = "",
            deprecated: str = "",
            known_as: Mapping[str, str] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "kind", Kind(self.kind))
        except ValueError:
            kinds = ", ".join(k.value for k in Kind)
            raise RegistryError(f"component {self.name!r}: kind {self.kind!r} is not one of {kinds}") from None
        if not (isinstance(self.name, str) and _NAME.match(self.name)):
            raise RegistryError(
                f"{self.kind} {self.name!r}: a name is lower-case letters, digits, '_', '.' and '-', e.g. 'my_part'"
            )
        spec = self.__dict__["spec"]
        if not (isinstance(spec, str) and _IMPLEMENTATION.match(spec)):
            self._check_spec(spec)
        if not (isinstance(self.implementation, str) and _IMPLEMENTATION.match(self.implementation)):
            raise RegistryError(
                f"{self.kind} {self.name!r}: implementation {self.implementation!r} must read 'package.module:Class'"
            )
        if not isinstance(self.summary, str) or "\n" in self.summary or not self.summary.strip():
            raise RegistryError(f"{self.kind} {self.name!r}: summary must be one line of text")
        if not isinstance(self.paper, str) or "\n" in self.paper:
            raise RegistryError(f"{self.kind} {self.name!r}: paper must be one line of text")
        if not isinstance(self.example, str):
            raise RegistryError(f"{self.kind} {self.name!r}: example must be text, the YAML of the part")
        if not isinstance(self.deprecated, str) or "\n" in self.deprecated:
            raise RegistryError(f"{self.kind} {self.name!r}: deprecated must be one line that says what to use instead")
        object.__setattr__(self, "known_as", dict(self.known_as or {}))
        if not all(isinstance(text, str) and "\n" not in text for pair in self.known_as.items() for text in pair):
            raise RegistryError(f"{self.kind} {self.name!r}: known_as must map names to one line of YAML each")

    def _check_spec(self, spec: Any) -> None:
        if not (isinstance(spec, type) and issubclass(spec, PartSpec)):
            raise RegistryError(
                f"{self.kind} {self.name!r}: spec must be a subclass of lensmith.PartSpec, or name one:"
                " 'package.module:Class'"
            )
        if "name" in spec.model_fields:
            raise RegistryError(
                f"{self} has a field `name` in {spec.__name__}, which is the part's name; call the field otherwise"
            )
        try:
            if not spec.__pydantic_fields_complete__:
                spec.model_rebuild()
        except PydanticUndefinedAnnotation as error:
            raise RegistryError(
                f"{self}: {error.name!r} in {spec.__name__} is not defined; import it outside `if TYPE_CHECKING:`"
            ) from error

    def _import_spec(self, address: str) -> type[PartSpec]:
        spec = self._import(address)
        try:
            self._check_spec(spec)
        except RegistryError as error:
            raise BrokenPluginError(f"{error} ({address} of {self.distribution} {self.version})".rstrip()) from error
        return cast(type[PartSpec], spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Component) and self.name == other.name and self._told() == other._told()

    def __hash__(self) -> int:
        return hash(self._told())

    def __repr__(self) -> str:
        return f"Component({self}, {self.implementation!r}, {self.distribution!r}, {self.version!r})"

    def _told(self) -> tuple[Any, ...]:
        return tuple(value for field, value in self.__dict__.items() if field not in ("spec", "known_as"))

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    def from_distribution(self, distribution: str, version: str) -> Component:
        """The same record with its provenance filled in."""
        placed = copy.copy(self)  # not dataclasses.replace, which would ask for the spec
        placed.__dict__.update(distribution=distribution, version=version)
        return placed

    def written_for(self, name: str) -> str | None:
        """What to write here for a name that another tool has for it; None where it has none such.

        Args:
            name: however it is spelt (`MLP2x_GELU`, `qwen2.5-vl`).
        """
        plain = name.strip().lower().replace("-", "_").replace(" ", "_")
        for pattern, written in self.known_as.items():
            if fnmatchcase(plain, pattern.lower().replace("-", "_")):
                return written
        return None

    def load(self) -> Any:
        """Import and return the implementation.

        Raises:
            BrokenPluginError: naming the package, when the import fails (or ends the program, as `sys.exit` does) or
                the attribute is not there.
        """
        return self._import(self.implementation)

    def _import(self, address: str) -> Any:
        module_name, attribute = address.split(":")
        origin = f"{self} of {self.distribution or 'an unnamed package'} {self.version}".rstrip()
        with isolated() as watch:
            try:
                module = importlib.import_module(module_name)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and watch.interrupted:
                    raise
                raise BrokenPluginError(
                    f"{origin} cannot be imported ({address}): {type(error).__name__}: {error}"
                ) from error
        if not hasattr(module, attribute):
            raise BrokenPluginError(f"{origin}: module {module_name} has no {attribute!r}")
        return getattr(module, attribute)


type.__setattr__(Component, "spec", _SpecOfRecord())  # here, as in the class it would be the field's default
