"""The JSON Schema of a spec file with everything that is installed, for completion in an editor."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import CoreModeRef, DefsRef, GenerateJsonSchema
from pydantic_core import to_jsonable_python

from lensmith.spec.build import run_spec_class
from lensmith_registry import BrokenPluginError, Registry

_EXTENDS = {
    "type": "string",
    "description": "A spec file (relative to this one) or a shipped recipe that this spec starts from.",
}


class _AsNamed:
    """What takes the place of pydantic's search for shorter names."""

    def remap_json_schema(self, schema: Any) -> Any:
        return schema


class _Quick(GenerateJsonSchema):
    """pydantic's generator, made to take half of the time.

    It needs no validator to write each plain default, and names a class once instead of choosing at the end the
    shortest of six names, for which it compares whole documents.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._names: dict[str, DefsRef] = {}
        self._taken: Counter[str] = Counter()

    def get_defs_ref(self, core_mode_ref: CoreModeRef) -> DefsRef:
        """The name of a class, with a number from the second one of that name on."""
        core_ref, _ = core_mode_ref  # every schema of one document has the same mode
        if core_ref not in self._names:
            name = self.normalize_name(core_ref.split(":")[0].rpartition(".")[2])
            self._taken[name] += 1
            count = self._taken[name]
            self._names[core_ref] = DefsRef(name if count == 1 else f"{name}__{count}")
        return self._names[core_ref]

    def _build_definitions_remapping(self) -> Any:
        return _AsNamed()

    def encode_default(self, dft: Any) -> Any:
        """A default as JSON."""
        if dft is None or isinstance(dft, (str, int, float)):
            return dft
        return dft.model_dump(mode="json") if isinstance(dft, BaseModel) else to_jsonable_python(dft)


def json_schema(registry: Registry) -> dict[str, Any]:
    """The schema of one spec file.

    It knows every field and refuses every other, but requires none: a file may extend another one and leave to it
    whatever stays the same, a part's name included. What is missing after all, `load_spec` says.

    Raises:
        BrokenPluginError: a part has a field that no file could hold; names the package.
    """
    try:
        document = run_spec_class(registry).model_json_schema(schema_generator=_Quick)
    except PydanticInvalidForJsonSchema as error:
        raise BrokenPluginError(_culprits(registry) or str(error)) from error
    for section in (document, *document.get("$defs", {}).values()):
        section.pop("required", None)
    document["properties"]["extends"] = _EXTENDS
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def _culprits(registry: Registry) -> str:
    found = []
    for component in registry.components():
        try:
            component.spec.model_json_schema()
        except PydanticInvalidForJsonSchema as error:
            found.append(
                f"{component} of {component.distribution} {component.version} has a field that no spec file can hold:"
                f" {error.message}; uninstall the package, or ask its author for a field of plain data"
            )
    return "\n".join(found)
