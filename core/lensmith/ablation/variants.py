"""The variants of a study: every combination of its choices, resolved to specs before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmith.ablation.study import Settings, StudySpec, labels_of
from lensmith.errors import Problem, SpecError
from lensmith.spec.build import dump, load_spec
from lensmith.spec.run import RunSpec


@dataclass(frozen=True)
class Variant:
    """One way to train, to be repeated with every seed.

    Args:
        name: in tables.
        choices: label by axis; `row` for one that is written out.
        settings: what it sets, by dotted path, the study's own settings included.
        until: the last stage that it trains; None for all.
    """

    name: str
    choices: Mapping[str, str]
    settings: Settings
    until: str | None = None

    def spec(self, study: StudySpec, seed: int | None = None) -> RunSpec:
        """The resolved spec.

        Raises:
            SpecError: it cannot work; names the variant.
        """
        try:
            spec = self.resolved(study)
        except SpecError as error:
            raise SpecError(
                [Problem(p.path, f"variant {self.name!r}: {p.message}", p.place) for p in error.problems]
            ) from None

        if seed is None:
            return spec
        stages = {name: stage.model_copy(update={"seed": seed}) for name, stage in spec.stages.items()}
        return spec.model_copy(update={"stages": stages})

    def resolved(self, study: StudySpec) -> RunSpec:
        """`spec` without a seed, whose mistakes do not name the variant.

        Raises:
            SpecError: it cannot work.
        """
        return self._cut(load_spec(_base(study), list(self.settings.items())))

    def _cut(self, spec: RunSpec) -> RunSpec:
        """The spec up to the last stage that is trained."""
        if self.until is None:
            return spec
        if self.until not in spec.stages:
            message = f"there is no stage {self.until!r}; there are {', '.join(spec.stages)}"
            raise SpecError([Problem("until", message)])
        names = list(spec.stages)
        kept = names[: names.index(self.until) + 1]
        return spec.model_copy(update={"stages": {name: spec.stages[name] for name in kept}})


def variants(study: StudySpec) -> list[Variant]:
    """All variants, the reference first.

    Raises:
        SpecError: two have one name.
    """
    found = [_variant(study, picked) for picked in _picks(study)] if study.axes or not study.runs else []
    changes: dict[str | None, Settings] = {None: study.set}
    for row in study.runs:
        changes[row.name] = changes[row.like] | row.set
        found.append(Variant(row.name, {"row": row.name}, changes[row.name], row.until))
    names = [variant.name for variant in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SpecError([Problem("axes", f"two variants are called {', '.join(twice)}; name the choices")])
    return found


def _base(study: StudySpec) -> Any:
    path = Path(study.base)
    return path if path.is_file() else study.base


def _picks(study: StudySpec) -> Iterator[tuple[int, ...]]:
    sizes = [len(choices) for choices in study.axes.values()]
    if study.design == "grid":
        yield from itertools.product(*(range(size) for size in sizes))
        return
    yield (0,) * len(sizes)
    for axis, size in enumerate(sizes):
        for choice in range(1, size):
            yield tuple(choice if at == axis else 0 for at in range(len(sizes)))


def _variant(study: StudySpec, picked: Sequence[int]) -> Variant:
    choices: dict[str, str] = {}
    settings: Settings = dict(study.set)
    for (axis, values), number in zip(study.axes.items(), picked, strict=True):
        choices[axis] = labels_of(values)[number]
        settings |= list(values.values())[number] if isinstance(values, dict) else {axis: values[number]}
    told = choices
    if study.design == "single" and study.axes:
        told = {axis: choices[axis] for axis, number in zip(choices, picked, strict=True) if number}
    name = ", ".join(f"{axis.rpartition('.')[2]} {label}" for axis, label in told.items())
    return Variant(name or ("reference" if study.axes else "base"), choices, settings)


def difference(variant: Variant, reference: Variant, study: StudySpec) -> dict[str, tuple[Any, Any]]:
    """What a variant has otherwise than another, by path: (there, here); None where a spec has no such path.

    What only one of them sets is for the other what its resolved spec says, a part by its name.
    """
    paths = [*reference.settings, *(p for p in variant.settings if p not in reference.settings)]
    differing = [path for path in paths if reference.settings.get(path) != variant.settings.get(path)]
    resolved = [dump(each.spec(study)) for each in (reference, variant)] if differing else []
    pairs = {}
    for path in differing:
        there, here = (
            each.settings[path] if path in each.settings else _at(plain, path, Path(study.base).parent)
            for each, plain in zip((reference, variant), resolved, strict=True)
        )
        pairs[path] = (there, here)
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def _at(plain: Any, path: str, folder: Path) -> Any:
    """A value of a resolved spec, paths told from the folder of the base as a study would."""
    for key in path.split("."):
        if isinstance(plain, Mapping):
            plain = plain.get(key)
        elif isinstance(plain, list) and key.isdigit() and int(key) < len(plain):
            plain = plain[int(key)]
        else:
            return None
    return _brief(plain, folder)


def _brief(value: Any, folder: Path) -> Any:
    """A part by its name, a source by its path."""
    if isinstance(value, str):
        return value.removeprefix(f"{folder}/")
    if isinstance(value, list):
        return [_brief(each, folder) for each in value]
    if isinstance(value, Mapping):
        known = next((key for key in ("name", "path") if key in value), None)
        return dict(value) if known is None else _brief(value[known], folder)
    return value
