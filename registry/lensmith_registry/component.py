"""What a plugin registers: a frozen record that names a part without importing it."""

from __future__ import annotations

import enum
import importlib
import re
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ConfigDict
from pydantic.errors import PydanticUndefinedAnnotation

from lensmith_registry.described import Described
from lensmith_registry.errors import BrokenPluginError, RegistryError

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")
_IMPLEMENTATION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


class Kind(str, enum.Enum):
    """The roles that a part can play."""

    VISION_ENCODER = "vision_encoder"
    IMAGE_SPLITTER = "image_splitter"
    CONNECTOR = "connector"
    LANGUAGE_MODEL = "language_model"
    TUNER = "tuner"
    CONVERSATION = "conversation"

    def __str__(self) -> str:
        return self.value


class PartSpec(Described):
    """Base of every part's spec: the fields that a user may write below the part's name.

    Unknown fields are refused and instances are frozen. The name under which a part is registered is not a
    field of the class: it is added where a spec file is read.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, defer_build=True, protected_namespaces=(), allow_inf_nan=False
    )


@dataclass(frozen=True)
class Component:
    """One part that a plugin offers.

    Args:
        kind: the role it plays.
        name: the exact name a spec uses, lower-case letters, digits, `_`, `.` and `-`.
        spec: a `PartSpec` subclass, light to import (pydantic only).
        implementation: `"package.module:Class"`, imported only when the part is built.
        summary: one line for `lensmith list`.
        distribution, version: where it came from; filled in by discovery.
        paper: where the method comes from, e.g. `LLaVA-1.5 (Liu et al. 2023, arXiv 2310.03744), section 3.1`; one line.
        example: the part as a spec file would write it below its kind, in YAML; by default its name alone.

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
        if not (isinstance(self.spec, type) and issubclass(self.spec, PartSpec)):
            raise RegistryError(f"{self.kind} {self.name!r}: spec must be a subclass of lensmith.PartSpec")
        self._check_fields()
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

    def _check_fields(self) -> None:
        if "name" in self.spec.model_fields:
            raise RegistryError(
                f"{self} has a field `name` in {self.spec.__name__}, which is the part's name; call the field otherwise"
            )
        try:
            if not self.spec.__pydantic_fields_complete__:
                self.spec.model_rebuild()
        except PydanticUndefinedAnnotation as error:
            raise RegistryError(
                f"{self}: {error.name!r} in {self.spec.__name__} is not defined; import it outside `if TYPE_CHECKING:`"
            ) from error

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    def from_distribution(self, distribution: str, version: str) -> Component:
        """The same record with its provenance filled in."""
        return replace(self, distribution=distribution, version=version)

    def load(self) -> Any:
        """Import and return the implementation.

        Raises:
            BrokenPluginError: naming the package, when the import fails (or ends the program, as `sys.exit` does) or
                the attribute is not there.
        """
        module_name, attribute = self.implementation.split(":")
        origin = f"{self} of {self.distribution or 'an unnamed package'} {self.version}".rstrip()
        try:
            module = importlib.import_module(module_name)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            raise BrokenPluginError(
                f"{origin} cannot be imported ({self.implementation}): {type(error).__name__}: {error}"
            ) from error
        if not hasattr(module, attribute):
            raise BrokenPluginError(f"{origin}: module {module_name} has no {attribute!r}")
        return getattr(module, attribute)
