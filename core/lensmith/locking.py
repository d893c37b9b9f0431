"""What a spec was made of: the distributions that it runs on, and itself, so that a change of either is noticed.

Recorded are Lensmith, the distributions that provide the spec's parts, and all that these require, directly or not
(torch, transformers, tokenizers, numpy, …): any of them can change a result or decide whether there is one, and a
choice of "the important ones" would be a list of names that ages. Of what is optional, an extra counts that has the
name of a part of the spec, as `lensmith[qlora]` has; those of other names do not.
Weights and rows are not recorded here: an artifact's manifest has their hashes. No torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from lensmith.errors import LensmithError, Problem, SpecError
from lensmith.files import sha256, write_text
from lensmith.io.json import JsonError, decode_text, parse_json, read_bytes
from lensmith.parts import component_of, default_conversation, nested_parts
from lensmith.spec.build import dump, load_spec
from lensmith.spec.run import RunSpec
from lensmith_registry import Component, Kind, PartSpec

FORMAT = 1
_OURS = "lensmith"
_OF_THE_INSTALLER = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"}
"""Files of a `.dist-info` folder that differ between two installs of the same thing."""

_Lock = dict[str, Any]


def lock_file(spec: Path) -> Path:
    """Where the lock of a spec file is: beside it, `run.yaml.lock` for `run.yaml`."""
    return spec.with_name(f"{spec.name}.lock")


def lock(spec: Path, overrides: Sequence[str] = ()) -> _Lock:
    """What a spec is made of now.

    Args:
        spec: its file.
        overrides: `dotted.path=value`; they belong to the resolved spec.

    Raises:
        SpecError: the spec is not valid.
        LensmithError: it is no file (a recipe's name), or the distribution of a part is not there any more.
    """
    if not spec.is_file():
        raise LensmithError(f"{spec} does not exist; a lock belongs to a spec file and is written beside it")
    loaded = load_spec(spec, overrides)
    parts = dict(_components(loaded))
    resolved = _movable(dump(loaded), spec.absolute().parent)
    canonical = json.dumps(resolved, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return {
        "lock": FORMAT,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "parts": {path: f"{c.name} of {c.distribution} {c.version}" for path, c in parts.items()},
        "distributions": _distributions(parts.values()),
        "spec": {"sha256": hashlib.sha256(canonical.encode()).hexdigest(), "resolved": resolved},
    }


def write_lock(spec: Path, overrides: Sequence[str] = ()) -> tuple[Path, _Lock]:
    """Write the lock of a spec beside it, whole or not at all; see `lock`."""
    data = lock(spec, overrides)
    target = lock_file(spec)
    head = f"# Written by `lensmith lock {spec.name}`; `lensmith check {spec.name} --locked` compares.\n"
    text = head + yaml.safe_dump(data, sort_keys=True, allow_unicode=True, width=120)
    write_text(target, text)
    return target, data


def read_lock(spec: Path) -> _Lock:
    """The lock beside a spec.

    Raises:
        SpecError: there is none, or it is not one that this Lensmith reads.
    """
    path = lock_file(spec)
    again = f"write it with `lensmith lock {spec}`"
    if not path.exists():
        raise SpecError([Problem("", f"{path} does not exist; {again}")])
    try:
        data = yaml.safe_load(decode_text(read_bytes(path), str(path)))
    except JsonError as error:
        raise SpecError([Problem("", f"{error}; {again}")]) from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise SpecError([Problem("", f"{path} cannot be read ({type(error).__name__}); {again}")]) from error
    if not isinstance(data, dict) or data.get("lock") != FORMAT:
        found = data.get("lock") if isinstance(data, dict) else None
        raise SpecError([Problem("", f"{path} has format {found!r}, this Lensmith reads {FORMAT}; {again}")])
    if not (isinstance(data.get("distributions"), dict) and isinstance(data.get("spec"), dict)):
        raise SpecError([Problem("", f"{path} is damaged; {again}")])
    return data


def drift(spec: Path, overrides: Sequence[str] = ()) -> list[Problem]:
    """Every difference between the lock beside a spec and what is here; the last one says what to do.

    Raises:
        SpecError: no lock that can be read, or the spec is not valid.
    """
    locked, now = read_lock(spec), lock(spec, overrides)
    place = str(lock_file(spec))
    messages = []
    if locked.get("python") != now["python"]:
        messages.append(("python", f"is {now['python']}, locked is {locked.get('python')}"))
    messages += _changed_distributions(locked["distributions"], now["distributions"])
    if locked["spec"].get("sha256") != now["spec"]["sha256"]:
        changed = list(_changed_values(locked["spec"].get("resolved"), now["spec"]["resolved"]))
        messages += changed or [("spec", "the resolved spec is another one; its values in the lock were edited")]
    if not messages:
        return []
    pins = [
        f"'{name}=={entry.get('version')}'"
        for name, entry in locked["distributions"].items()
        if isinstance(entry, dict) and name != _OURS and _version(name) != entry.get("version")
    ]
    back = f"go back to what is locked (pip install {' '.join(pins)})" if pins else "go back to what is locked"
    cure = f"{back}, or accept what is here with `lensmith lock {spec}`"
    messages[-1] = (messages[-1][0], f"{messages[-1][1]}\n  To go on, {cure}")
    return [Problem(path, message, place) for path, message in messages]


def require_locked(spec: Path, overrides: Sequence[str] = ()) -> None:
    """Refuse to go on where something differs from the lock.

    Raises:
        SpecError: every difference.
    """
    if problems := drift(spec, overrides):
        raise SpecError(problems)


def _components(spec: RunSpec) -> Iterator[tuple[str, Component]]:
    """Every part of a spec by its path, parts of parts and the language model's own conversation included."""
    model = spec.model
    for kind in Kind:
        part = getattr(model, kind.value, None)
        if kind is Kind.CONVERSATION and part is None:
            part = default_conversation(model)
        if isinstance(part, PartSpec):
            yield from _with_nested(f"model.{kind}", kind, part)
    for name, stage in spec.stages.items():
        for kind in Kind:
            part = getattr(stage, kind.value, None)
            if isinstance(part, PartSpec):
                yield from _with_nested(f"stages.{name}.{kind}", kind, part)


def _with_nested(path: str, kind: Kind, part: PartSpec) -> Iterator[tuple[str, Component]]:
    yield path, component_of(kind, part)
    for below, inner, spec in nested_parts(part):
        yield from _with_nested(f"{path}.{below}", inner, spec)


def _movable(value: Any, folder: Path) -> Any:
    """A resolved spec with its paths relative to its folder, so that a project may be moved as a whole."""
    if isinstance(value, Mapping):
        return {key: _movable(below, folder) for key, below in value.items()}
    if isinstance(value, list):
        return [_movable(below, folder) for below in value]
    if isinstance(value, str) and os.path.isabs(value):  # noqa: PTH117 - any text may stand here
        return Path(os.path.relpath(value, folder)).as_posix()
    return value


def _distributions(parts: Iterable[Component]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    parts = list(parts)
    providers: set[str] = {canonicalize_name(name) for name in (_OURS, *(c.distribution for c in parts))}
    extras: set[str] = {canonicalize_name(component.name) for component in parts}
    waiting = sorted(providers)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name in providers:
                raise LensmithError(f"the distribution {name} of a part is not installed; install it again") from None
            continue  # what is required and not there cannot change; `pip check` tells of it
        modules = {c.implementation for c in parts if canonicalize_name(c.distribution) == name}
        found[name] = {"version": distribution.version}
        digest = _files_hash(distribution, modules) if name in providers else _record_hash(distribution)
        if digest:
            found[name]["sha256"] = digest
        waiting += _required(distribution, extras if name in providers else set())
    return dict(sorted(found.items()))


def _required(distribution: importlib.metadata.Distribution, extras: set[str]) -> Iterator[str]:
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # of an old package; pip would say so
            continue
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ("", *sorted(extras))):
            yield requirement.name


def _record_hash(distribution: importlib.metadata.Distribution) -> str:
    """Hash of a library's list of files and their hashes: it tells builds of one version apart, reading one file."""
    lines = []
    for file in distribution.files or ():
        if file.hash is not None and _counts(file.as_posix()):
            lines.append(f"{file.as_posix()} {file.hash.mode}={file.hash.value}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() if lines else ""


def _files_hash(distribution: importlib.metadata.Distribution, modules: Iterable[str]) -> str:
    """Hash of the names and contents of a package's files as they are now, wherever an editable install has them."""
    files: dict[str, Path] = {}
    if not _editable(distribution):
        for file in distribution.files or ():
            if ".dist-info/" not in file.as_posix() and _counts(file.as_posix()):
                files[file.as_posix()] = Path(str(distribution.locate_file(file)))
    if not any(name.endswith(".py") for name in files):
        for top in sorted(_top_levels(distribution, modules)):
            files |= _files_of_module(top)
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = sha256(path) if path.is_file() else "missing"
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest() if files else ""


def _counts(name: str) -> bool:
    """Whether a file is part of what was installed: not bytecode, not a script with this machine's paths."""
    folders = name.split("/")
    own = folders[-1] not in _OF_THE_INSTALLER if folders[0].endswith(".dist-info") else True
    return own and not name.endswith((".pyc", ".pth")) and "__pycache__" not in folders and folders[0] != ".."


def _editable(distribution: importlib.metadata.Distribution) -> bool:
    try:
        origin = parse_json(distribution.read_text("direct_url.json") or "{}", "direct_url.json")
    except ValueError:
        return False
    return bool(isinstance(origin, dict) and (origin.get("dir_info") or {}).get("editable"))


def _top_levels(distribution: importlib.metadata.Distribution, modules: Iterable[str]) -> set[str]:
    """Top-level modules of an install without a list of its files: those that it declares, and those beside them."""
    addresses = [*modules, *(entry_point.value for entry_point in distribution.entry_points)]
    tops = {address.partition(":")[0].partition(".")[0].strip() for address in addresses}
    for file in distribution.files or ():
        if file.suffix == ".pth":
            for line in Path(str(distribution.locate_file(file))).read_text(encoding="utf-8").splitlines():
                root = Path(line.strip())
                # The root of a project also holds its tests; a folder of sources only what is installed.
                if root.is_dir() and not (root / "pyproject.toml").exists():
                    tops |= {inner.parent.name for inner in root.glob("*/__init__.py")}
    return tops


def _files_of_module(top: str) -> dict[str, Path]:
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return {}
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    found = {f"{top}/{p.relative_to(root).as_posix()}": p for root in roots for p in root.rglob("*") if p.is_file()}
    if not roots and spec.origin:
        found = {Path(spec.origin).name: Path(spec.origin)}
    return {name: path for name, path in found.items() if _counts(name)}


def _changed_distributions(locked: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in sorted({*locked, *now}):
        path = f"distributions.{name}"
        before, after = locked.get(name), now.get(name)
        if not isinstance(before, Mapping):
            yield path, f"{after['version'] if after else '?'} is needed now and not in the lock"
        elif after is None:
            here = "not needed any more" if _version(name) else "not installed"
            yield path, f"{before.get('version')} is locked and {here}"
        elif before.get("version") != after["version"]:
            yield path, f"is {after['version']}, locked is {before.get('version')}"
        elif before.get("sha256") != after.get("sha256"):
            yield path, f"is {after['version']} as locked, but its files are not those that were locked"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _changed_values(locked: Any, now: Any, path: str = "spec") -> Iterator[tuple[str, str]]:
    if isinstance(locked, Mapping) and isinstance(now, Mapping):
        if "name" in now and now["name"] != locked.get("name"):  # another part: its fields are others too
            yield path, f"is {now['name']!r}, locked is {locked.get('name')!r}"
            return
        for key in sorted({*map(str, locked), *map(str, now)}):
            below = f"{path}.{key}"
            if key not in now:
                yield below, f"is not set, locked is {locked[key]!r}"
            elif key not in locked:
                yield below, f"is {now[key]!r}, not in the lock"
            else:
                yield from _changed_values(locked[key], now[key], below)
    elif isinstance(locked, list) and isinstance(now, list) and len(locked) == len(now):
        for number, (before, after) in enumerate(zip(locked, now, strict=True)):
            yield from _changed_values(before, after, f"{path}.{number}")
    elif locked != now:
        yield path, f"is {now!r}, locked is {locked!r}"
