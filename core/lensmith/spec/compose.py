"""Put a spec together: `extends`, then the file, then dotted overrides."""

from __future__ import annotations

import copy
import difflib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lensmith.errors import Problem, SpecError
from lensmith.spec.run import source_list
from lensmith.spec.yaml import Document, SpecKeys, parse_scalar, read_document
from lensmith_registry import Kind, Registry

_KEY = re.compile(r"[A-Za-z0-9_.-]+\Z")
_SUFFIXES = (".yaml", ".yml", ".json", ".toml")
_PARTS = {kind.value for kind in Kind}
"""Keys below which a part stands, for which its name alone is short."""


WEIGHTS, SIZES = "checkpoint", "config"
"""The fields of a part that say where its weights are, and what sizes they have until they are there."""


Override = str | tuple[str, Any]
"""`dotted.path=value` as a user writes it, or the path and the value itself."""


def compose(source: Path | Mapping[str, Any], overrides: Sequence[Override], registry: Registry) -> list[Document]:
    """Read a spec and everything that it extends.

    Args:
        source: a spec file, the name of a recipe, or the same as a mapping.
        overrides: `dotted.path=value`, or the path and its value, applied last.
        registry: knows the shipped recipes.

    Returns:
        Documents from the most specific to the most general; the first holds the merged data.

    Raises:
        SpecError: a file is missing or malformed, `extends` goes in a circle, an override cannot be applied.
    """
    if isinstance(source, Mapping):
        first = Document(copy.deepcopy(dict(source)), "spec")
    else:
        first = read_document(_file_or_recipe(source, registry))
    chain = _chain(first, registry)
    data: dict[str, Any] = {}
    for document in reversed(chain):
        data = merge(data, _mapping(document))
    merged = Document(data, chain[0].source, dict(chain[0].lines))
    problems: list[Problem] = []
    stages = [str(stage) for stage in data["stages"]] if isinstance(data.get("stages"), dict) else []
    # Another name or checkpoint takes fields away, so that these go first wherever they stand.
    for override in sorted(overrides, key=_order):
        place = f"override {override if isinstance(override, str) else override[0]!r}"
        if unknown := _unknown_stage(override, stages, overrides):
            problems.append(Problem("", unknown, place))
            continue
        try:
            merged.overridden.update(dict.fromkeys(apply_override(data, override), place))
        except ValueError as error:
            problems.append(Problem("", str(error), place))
    if problems:
        raise SpecError(problems)
    return [merged, *chain[1:]]


def _file_or_recipe(source: Path, registry: Registry) -> Path:
    with suppress(OSError):  # a name too long for a file is not a recipe's either
        if source.exists():
            return source
    shipped = recipes(registry)
    if str(source) in shipped or source.suffix in _SUFFIXES or source.parent != Path():
        return shipped.get(str(source), source)
    raise SpecError(
        [Problem("", f"{str(source)!r} is neither a spec file nor a recipe.{_known(str(source), shipped)}")]
    )


def merge(base: Any, over: Any) -> Any:
    """Merge two values: mappings key by key, everything else replaced.

    A mapping that names another part (`name`) replaces the whole one below it, since its fields belong to that part.
    A part's name alone means the same as a mapping that holds nothing else. Another checkpoint takes the sizes away
    that were given for the one before.
    """
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if "name" in over and _name(base) not in (None, over["name"]):
        return over
    result = dict(base)
    if over.get(WEIGHTS) not in (None, base.get(WEIGHTS)):
        result.pop(SIZES, None)
    for key, value in over.items():
        if key in result and key in _PARTS and "name" not in base:
            result[key] = merge(_long_form(result[key]), _long_form(value))
        else:
            result[key] = merge(result.get(key), value)
    return result


def apply_override(data: dict[str, Any], override: Override) -> list[SpecKeys]:
    """Set one dotted path in place; list items are addressed by number (`stages.tune.data.sources.0.weight=2`).

    Returns:
        The path and, where the value is a mapping or list, those below it.

    Raises:
        ValueError: not of the form `path=value`, or the path goes through something that is not there.
    """
    path, separator, text = override.partition("=") if isinstance(override, str) else (override[0], "=", "")
    keys = path.strip().split(".")
    if not separator or not all(_KEY.match(key) for key in keys):
        raise ValueError("an override reads dotted.path=value, e.g. model.connector.depth=3")
    if keys == ["extends"]:
        raise ValueError("`extends` stands in a file; name another file, or override what differs")
    try:
        value = parse_scalar(text) if isinstance(override, str) else copy.deepcopy(override[1])
    except SpecError as error:
        raise ValueError(error.problems[0].message) from error
    here: Any = data
    walked: list[str | int] = []
    for key, following in itertools.pairwise(keys):
        here = _descend(here, key, following, walked)
    last = keys[-1]
    if isinstance(here, list):
        index = _index(here, last, walked)
        here[index] = merge(here[index], value)
        walked.append(index)
    elif isinstance(here, dict):
        if last == "name" and _name(here) not in (None, value):
            here.clear()  # another part: the fields of the one before do not apply to it
        if last == WEIGHTS and value not in (None, here.get(WEIGHTS)):
            here.pop(SIZES, None)  # they were those of the checkpoint before
        here.update(merge({last: here.get(last)}, {last: value}))
        walked.append(last)
    else:
        raise ValueError(f"{'.'.join(map(str, walked))} is not a mapping or list")
    return list(_paths(tuple(walked), value))


def _unknown_stage(override: Override, stages: Sequence[str], overrides: Sequence[Override]) -> str:
    """What is wrong with an override of a stage that the files do not have, else nothing.

    A misspelt stage is not a new one: it would train, and the stage that was meant would stay as it is. One that is
    given a tuner is new, unless it is called nearly as another.
    """
    keys = _keys_of(override)
    if len(keys) < 2 or keys[0] != "stages" or not stages or keys[1] in stages:
        return ""
    close = difflib.get_close_matches(keys[1].lower(), stages, n=1, cutoff=0.8)
    tuner = ["stages", keys[1], "tuner"]
    if not close and any(_keys_of(o)[:3] == tuner or (len(_keys_of(o)) == 2 and "tuner" in str(o)) for o in overrides):
        return ""
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"there is no stage {keys[1]!r}.{hint} The spec has {', '.join(stages)}; a new stage has a tuner, and stands"
        " in a file that extends this one"
    )


def _keys_of(override: Override) -> list[str]:
    path = override.partition("=")[0] if isinstance(override, str) else override[0]
    return path.strip().split(".")


def _order(override: Override) -> int:
    path = override.partition("=")[0] if isinstance(override, str) else override[0]
    last = path.strip().rpartition(".")[2]
    return 0 if last == "name" or last in _PARTS else 1 if last == WEIGHTS else 2


def _descend(here: Any, key: str, following: str, walked: list[str | int]) -> Any:
    """One step into a value, of which a shorthand is written out first; `walked` grows by the step."""
    if isinstance(here, list):
        index = _index(here, key, walked)
        walked.append(index)
        here[index] = _long_form(here[index])  # text in a list that has something below it can only be a part's name
        return here[index]
    if not isinstance(here, dict):
        raise ValueError(f"{'.'.join(map(str, walked))} is not a mapping or list")
    value = here.get(key)
    if key in _PARTS:
        value = _long_form(value)
    elif key == "sources" and value is not None:
        listed = source_list(value)
        value = listed if following.isdigit() or isinstance(value, list) else listed[0]
    here[key] = {} if value is None else value
    walked.append(key)
    return here[key]


def _index(items: list[Any], key: str, walked: list[str | int]) -> int:
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    path = ".".join(map(str, walked))
    raise ValueError(f"{path} has no item {key!r}; it has {len(items)}, counted from 0")


def _paths(path: SpecKeys, value: Any) -> Iterator[SpecKeys]:
    yield path
    if isinstance(value, (dict, list)):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths((*path, key), below)


def _long_form(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _name(value: Any) -> Any:
    return value.get("name") if isinstance(value, dict) else value if isinstance(value, str) else None


def _mapping(document: Document) -> dict[str, Any]:
    if document.data is None:
        return {}
    if not isinstance(document.data, dict):
        kind = type(document.data).__name__
        message = f"a spec is a mapping with `model:` and `stages:`, not a {kind}"
        raise SpecError([Problem("", message, document.source)])
    return {key: value for key, value in document.data.items() if key != "extends"}


def _chain(first: Document, registry: Registry) -> list[Document]:
    chain = [first]
    seen = [os.path.realpath(first.source)]
    while isinstance(chain[-1].data, dict) and chain[-1].data.get("extends") is not None:
        current = chain[-1]
        name, place = current.data["extends"], current.place(("extends",))
        if not isinstance(name, str):
            raise SpecError([Problem("extends", "names one file or recipe", place)])
        path = _find(name, place, registry)
        if (real := os.path.realpath(path)) in seen:
            raise SpecError([Problem("extends", f"goes in a circle: {' -> '.join([*seen, real])}", place)])
        seen.append(real)
        chain.append(read_document(path))
    return chain


def _find(name: str, place: str, registry: Registry) -> Path:
    beside = getattr(name, "base", Path.cwd()) / Path(name).expanduser()
    if beside.suffix in _SUFFIXES and os.path.isfile(beside):  # noqa: PTH113 - never raises
        return Path(os.path.normpath(beside))
    claims = _recipe_files(registry).get(name, [])
    if len(claims) == 1:
        return claims[0]
    if claims:
        files = " and ".join(map(str, claims))
        raise SpecError([Problem("extends", f"the recipe {str(name)!r} is offered twice, by {files}", place)])
    shipped = recipes(registry)
    message = f"{str(name)!r} is neither a spec file (there is no {beside}) nor a recipe.{_known(name, shipped)}"
    raise SpecError([Problem("extends", message, place)])


def _known(name: str, shipped: Mapping[str, Path]) -> str:
    close = difflib.get_close_matches(name, shipped, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"{hint} Recipes: {', '.join(shipped) or 'none'}."


def recipes(registry: Registry) -> dict[str, Path]:
    """Shipped recipes by name, without those that two plugins claim."""
    return {name: files[0] for name, files in sorted(_recipe_files(registry).items()) if len(files) == 1}


def _recipe_files(registry: Registry) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in registry.recipes():
        for file in sorted(folder.glob("*.yaml")):
            found.setdefault(file.stem, []).append(file)
    return found
