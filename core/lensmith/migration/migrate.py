"""Arguments to a spec, by the importers: each knows its own project's trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lensmith.errors import Problem, SpecError
from lensmith.interfaces.formats import ImporterSpec
from lensmith.migration.arguments import Arguments
from lensmith.spec import elsewhere
from lensmith_registry import Kind, Registry, RegistryError


@dataclass
class Migrated:
    """A spec, and what of the arguments is not in it.

    Args:
        spec: as a file would hold it.
        left: name of an argument, and why it is not in the spec.
        notes: what was assumed.
    """

    spec: dict[str, Any]
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def migrate(arguments: Arguments, registry: Registry, *, gpus: int | None = None) -> Migrated:
    """The spec that arguments ask for.

    Args:
        arguments: of the script.
        registry: whose importers are asked, and whose recipes lend configs of checkpoints that are not here.
        gpus: instead of what the script says; 8 where neither does.

    Raises:
        SpecError: no importer knows the trainer.
    """
    count = gpus or arguments.gpus
    for component in registry.components(Kind.IMPORTER):
        try:
            spec: Any = component.spec
        except RegistryError:
            continue
        if not issubclass(spec, ImporterSpec):
            continue
        made = spec.migrated(arguments.values, count or 8)
        if made is not None:
            found = Migrated(made["spec"], {}, [*arguments.notes, *made["notes"]])
            for name in sorted(arguments.values.keys() - set(made["used"])):
                found.left[name] = _why(name, arguments.values[name])
            if count is None:
                found.notes.insert(
                    0, "the script does not say how many GPUs there are: 8 are taken; --gpus says how many"
                )
            _lend_configs(found.spec, registry)
            return found
    known = ", ".join(sorted(arguments.values)[:12])
    raise SpecError(
        [Problem("", f"{arguments.source}: no installed importer knows a trainer with these arguments: {known}")]
    )


def _why(name: str, value: Any) -> str:
    said = elsewhere.known(name)
    if said is None:
        return "there is nothing like it here"
    if not said.where:
        return said.note
    return f"set {said.where} if you need it{f' ({said.note})' if said.note else ''}"


def _lend_configs(spec: dict[str, Any], registry: Registry) -> None:
    """Give parts whose checkpoint is not on this machine the config that a shipped recipe has of it."""
    from pathlib import Path

    from lensmith.spec.compose import recipes
    from lensmith.spec.yaml import read_document

    wanted = {
        part["checkpoint"]: part
        for part in spec["model"].values()
        if isinstance(part, dict) and part.get("checkpoint") and not Path(part["checkpoint"]).exists()
    }
    for file in recipes(registry).values() if wanted else ():
        model = read_document(file).data.get("model") or {}
        for part in model.values():
            known = wanted.get(part.get("checkpoint")) if isinstance(part, Mapping) else None
            if known is not None and "config" in part:
                known.setdefault("config", str(file.parent / part["config"]))
