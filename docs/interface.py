"""The public interface, read from the source: every name of `lensmith` and `lensmith_registry`, and every spec field.

    python docs/interface.py            print it
    python docs/interface.py --write    write tests/core/public_api.txt, for a release

Nothing of it is imported but the records of the shipped parts, so it takes no torch.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import griffe

from lensmith.catalog import field_rows
from lensmith_registry import Kind, discover

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "tests" / "core" / "public_api.txt"
PACKAGES = ("lensmith", "lensmith_registry")
HEADER = "# The public interface of Lensmith {version}; written by `python docs/interface.py --write`"


@cache
def package(name: str) -> griffe.Module:
    """A package as its source says, with what it re-exports."""
    logging.getLogger("griffe").setLevel(logging.ERROR)
    loader = griffe.GriffeLoader(search_paths=[str(ROOT / "core"), str(ROOT / "registry")])
    for each in PACKAGES:
        loader.load(each)
    loader.resolve_aliases(implicit=True, external=False)
    module = loader.modules_collection[name]
    assert isinstance(module, griffe.Module)
    return module


def exported(name: str) -> dict[str, griffe.Object]:
    """Everything in a package's `__all__`, by name."""
    module = package(name)
    found = {}
    for public in sorted(map(str, module.exports or ())):
        member = module[public]
        item = member.final_target if member.is_alias else member
        # A function that its package re-exports from a module of its own name, which the function hides.
        found[public] = item[public] if item.is_module else item
    return found


def members(owner: griffe.Object) -> Iterator[tuple[str, griffe.Object]]:
    """Methods, properties and fields of a class that others may use, in the order of the source."""
    for name, member in owner.members.items():
        if not member.is_alias and name != "model_config" and (name == "__init__" or not name.startswith("_")):
            yield name, member  # type: ignore[misc]


def signature(item: griffe.Object) -> str:
    """What a caller depends on, in one line."""
    if isinstance(item, griffe.Class):
        bases = ", ".join(map(str, item.bases))
        return f"class({bases})"
    if isinstance(item, griffe.Function):
        marks = [mark for mark in ("classmethod", "staticmethod", "abstractmethod") if mark in item.labels]
        parameters = ", ".join(_parameters(item))
        returns = f" -> {item.returns}" if item.returns is not None else ""
        return " ".join([*marks, f"({parameters}){returns}"])
    assert isinstance(item, griffe.Attribute), item.path
    kind = "property " if "property" in item.labels else ""
    value = f" = {item.value}" if item.value is not None else ""
    return re.sub(r"\s+", " ", f"{kind}{item.annotation or ''}{value}").strip()


def _parameters(function: griffe.Function) -> Iterator[str]:
    seen_star = positional = False
    for parameter in function.parameters:
        kind = parameter.kind
        if positional and kind is not griffe.ParameterKind.positional_only:
            yield "/"
        positional = kind is griffe.ParameterKind.positional_only
        star = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(kind, "")
        if kind is griffe.ParameterKind.keyword_only and not seen_star:
            yield "*"
        seen_star = seen_star or kind in (griffe.ParameterKind.keyword_only, griffe.ParameterKind.var_positional)
        annotation = f": {parameter.annotation}" if parameter.annotation is not None else ""
        default = f" = {parameter.default}" if parameter.default is not None and not star else ""
        yield f"{star}{parameter.name}{annotation}{default}"


def interface() -> dict[str, str]:
    """The signature of every public name: `train`, `Connector.forward`, `StageSpec.lr`, `connector.mlp.depth`."""
    found = {}
    for name in PACKAGES:
        for public, item in exported(name).items():
            found[public] = signature(item)
            if isinstance(item, griffe.Class):
                found |= {f"{public}.{inner}": signature(member) for inner, member in members(item)}
    sections = package("lensmith")["spec.run"]
    for public, item in sections.members.items():
        if isinstance(item, griffe.Class) and not public.startswith("_"):
            found |= {f"{public}.{inner}": signature(member) for inner, member in members(item)}
    for hook, item in package("lensmith_registry")["hooks"].members.items():
        if hook.startswith("lensmith_") and isinstance(item, griffe.Function):
            found[hook] = signature(item)
    for component in discover().components():
        if component.distribution == "lensmith":
            here = f"{component.kind}.{component.name}"
            found[here] = "a part of Lensmith"
            rows = field_rows(component.spec)
            found |= {f"{here}.{name}": f"{kind} = {default}" for name, kind, default, _ in rows}
    return dict(sorted(found.items()))


def write(path: Path = SNAPSHOT) -> None:
    """Write the interface as it is now."""
    lines = [HEADER.format(version=version("lensmith")), *(f"{name} | {text}" for name, text in interface().items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(path: Path = SNAPSHOT) -> tuple[str, dict[str, str]]:
    """The version that a snapshot is of, and what it holds."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    found = re.search(r"Lensmith (\S+);", head)
    assert found is not None
    pairs = (line.partition(" | ") for line in lines)
    return found[1], {name: text for name, _, text in pairs}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Every name that came, went or has another signature, with what happened."""
    found = {}
    for name in sorted({*before, *now}):
        if name not in now:
            found[name] = "was removed"
        elif name not in before:
            found[name] = "is new"
        elif before[name] != now[name]:
            found[name] = f"was {before[name]!r}, is {now[name]!r}"
    # A class that is new or gone speaks for its members.
    return {
        name: text
        for name, text in found.items()
        if text.startswith("was '") or name.rpartition(".")[0] not in found or "was '" in found[name.rpartition(".")[0]]
    }


def unmentioned(changed: Mapping[str, str], changelog: str) -> dict[str, str]:
    """Those of the changes that no unreleased section of the changelog names in backquotes."""
    sections = re.split(r"^## ", changelog, flags=re.M)
    text = "\n".join(section for section in sections if "unreleased" in section.partition("\n")[0].lower())
    quoted = " ".join(re.findall(r"`([^`]+)`", text))

    def mentioned(name: str) -> bool:
        name = name.removesuffix(".__init__")
        kind, _, rest = name.partition(".")  # a part's field is also found without its kind
        names = (name, rest) if kind in set(Kind) else (name,)
        return any(re.search(rf"(?<![\w.]){re.escape(each)}\b", quoted) for each in names)

    return {name: text for name, text in changed.items() if not mentioned(name)}


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        write()
    else:
        print("\n".join(f"{name} | {text}" for name, text in interface().items()))
