"""What a study file says: a base spec, axes over its paths, seeds, benchmarks, and the findings it is to test."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from lensmith.checkpoints import LocatedStr, SpecPath
from lensmith.errors import Problem, SpecError
from lensmith.evaluation.suite import BenchmarkEntry, check_titles
from lensmith.interfaces.bounds import Seed
from lensmith.spec.run import Section
from lensmith.spec.yaml import Document, read_document

Settings = dict[str, Any]
"""Dotted paths of the spec, and the values that they are given."""


class JudgeEntry(Section):
    """Who marks the answers of judged benchmarks."""

    url: str
    """OpenAI-compatible endpoint, or `openai` for OpenAI's. The judge's model is an option of the benchmark. Nobody is
    asked before it costs money."""
    cache: SpecPath | None = None
    """File of its replies, each asked for once only; by default one for each score."""
    parallel: int = Field(4, ge=1)
    """Requests at the same time. Default 4."""


class Row(Section):
    """One variant that is written out, instead of being a combination of axes."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    """Name in tables."""
    like: str | None = None
    """A row above, all of whose changes it makes first, so that a table can go on step by step. By default none."""
    set: Settings = Field({})
    """What it changes."""
    until: str | None = None
    """The last stage that it trains. By default all of them."""


class Finding(Section):
    """A claim that this study can test, published or one's own: one choice scores more than another."""

    claim: str
    """In words."""
    source: str = "this study"
    """Where it is published. By default this study, as of a hypothesis of one's own."""
    better: dict[str, str]
    """Axes and the labels of the choice that should score more; `{row: NAME}` for one of `runs`."""
    than: dict[str, str]
    """The other choice, on the same axes."""
    on: str | None = None
    """The benchmark's name in tables; by default the mean over all."""
    factor: float = Field(1.0, gt=0)
    """The first should score more than this times the second: 0.98 for `loses less than two per cent`. Default 1."""


def _entries(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _each_once(seeds: list[int]) -> list[int]:
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"{', '.join(map(str, twice))} is there twice, and would give the same run twice")
    return seeds


Seeds = Annotated[list[Seed], Field(min_length=1, max_length=1000), AfterValidator(_each_once)]
"""Seeds of a study: each is one training of every variant."""


class Preset(Section):
    """A smaller or larger form of the study."""

    axes: list[str] | dict[str, list[str]] | None = None
    """Only these, or of each only these choices by their labels, the reference first; the others stay at their first
    value. By default all."""
    seeds: Annotated[Seeds, BeforeValidator(_entries)] | None = None
    """Instead of the study's."""
    set: Settings = Field({})
    """Changes of every variant, before its own."""
    limit: int | None = Field(None, ge=1)
    """Questions of each benchmark."""


class StudySpec(Section):
    """A study."""

    base: str
    """The spec that every variant starts from: a file beside the study, or a recipe."""
    set: Settings = Field({})
    """Changes of every variant, by dotted path."""
    axes: dict[str, list[Any] | dict[str, Settings]] = Field({})
    """What varies. `model.connector: [linear, mlp]` gives a path its values; `name: {label: {path: value, …}, …}` names
    choices that change several paths at once. The first choice of each axis is the reference."""
    design: Literal["grid", "single"] = "grid"
    """`grid`: every combination. `single`: the reference, and each other choice with all other axes at the reference.
    Default grid."""
    runs: list[Row] = Field([])
    """Variants that are written out, besides the axes'."""
    seeds: Annotated[Seeds, BeforeValidator(_entries)] = Field([42])
    """Each variant is trained once with each (order of rows, dropout, fresh weights). Default 42 alone."""
    benchmarks: list[BenchmarkEntry] = Field([])
    """What every variant is scored on."""
    findings: list[Finding] = Field([])
    """Published claims to compare with."""
    presets: dict[str, Preset] = Field({})
    """Forms of the study by name, for `--preset`."""
    hardware: str | None = None
    """GPUs of the cost columns, e.g. `a100-80g x 8`; by default the FLOPs are told without hours."""
    rows: dict[str, Annotated[int, Field(ge=1)]] = Field({})
    """How many rows files have that are not here yet, by path, so that costs can be told before they are."""
    judge: JudgeEntry | None = None
    """Needed by judged benchmarks. Default none."""

    @model_validator(mode="after")
    def _consistent(self) -> StudySpec:
        for axis, choices in self.axes.items():
            if not choices:
                raise ValueError(f"axis {axis!r} has no choices")
            _check_labels(axis, labels_of(choices))
        _check_paths(self.axes)
        labels = [row.name for row in self.runs]
        titles = [entry.title for entry in self.benchmarks]
        if twice := sorted({n for n in labels if labels.count(n) > 1}):
            raise ValueError(f"runs: {', '.join(twice)} is there twice; give each its own name")
        check_titles(self.benchmarks)
        for number, row in enumerate(self.runs):
            if row.like is not None and row.like not in labels[:number]:
                above = ", ".join(labels[:number]) or "none"
                raise ValueError(f"runs.{number}.like: no row above is called {row.like!r}; there are {above}")
        for finding in self.findings:
            self._check_finding(finding, labels, titles)
        for name, preset in self.presets.items():
            if unknown := sorted(set(preset.axes or ()) - set(self.axes)):
                raise ValueError(f"presets.{name}.axes: no axis {', '.join(unknown)}; there are {', '.join(self.axes)}")
            for axis, labels in preset.axes.items() if isinstance(preset.axes, dict) else ():
                known = labels_of(self.axes[axis])
                if not labels or not set(labels) <= set(known):
                    wrong = ", ".join(sorted(set(labels) - set(known))) or "no choices"
                    raise ValueError(f"presets.{name}.axes.{axis}: {wrong}; it has {', '.join(known)}")
        return self

    def _check_finding(self, finding: Finding, rows: Sequence[str], titles: Sequence[str]) -> None:
        if finding.on is not None and finding.on not in titles:
            raise ValueError(f"finding {finding.claim!r}: no benchmark {finding.on!r}; there are {', '.join(titles)}")
        for choice in (finding.better, finding.than):
            for axis, label in choice.items():
                known = rows if axis == "row" else labels_of(self.axes[axis]) if axis in self.axes else None
                if known is None:
                    axes = ", ".join([*self.axes, *(["row"] if rows else [])])
                    raise ValueError(f"finding {finding.claim!r}: no axis {axis!r}; there are {axes}")
                if label not in known:
                    raise ValueError(f"finding {finding.claim!r}: {axis} has no {label!r}; it has {', '.join(known)}")
        if finding.better == finding.than:
            raise ValueError(f"finding {finding.claim!r}: `better` and `than` are the same choice")
        if set(finding.better) != set(finding.than):
            raise ValueError(f"finding {finding.claim!r}: `better` and `than` name different axes")

    def preset(self, name: str) -> StudySpec:
        """The study in one of its forms.

        Raises:
            SpecError: there is no such preset.
        """
        if name not in self.presets:
            known = ", ".join(self.presets) or "none"
            raise SpecError([Problem("--preset", f"there is no preset {name!r}; the study has {known}")])
        chosen = self.presets[name]
        changes: dict[str, Any] = {"set": {**self.set, **chosen.set}}
        if chosen.axes is not None:
            kept_labels = chosen.axes if isinstance(chosen.axes, dict) else {}
            changes["axes"] = {
                axis: _some(values, kept_labels.get(axis)) for axis, values in self.axes.items() if axis in chosen.axes
            }
            dropped = {axis: values for axis, values in self.axes.items() if axis not in chosen.axes}
            # As an axis does: its reference goes over the study's settings.
            changes["set"] = self.set | _references(dropped) | chosen.set
            changes["findings"] = [f for f in self.findings if _tests(changes["axes"], f)]
        if chosen.seeds is not None:
            changes["seeds"] = chosen.seeds
        if chosen.limit is not None:
            least = [min(chosen.limit, entry.limit or chosen.limit) for entry in self.benchmarks]
            changes["benchmarks"] = [
                entry.model_copy(update={"limit": limit}) for entry, limit in zip(self.benchmarks, least, strict=True)
            ]
        return self.model_copy(update=changes)


def _check_labels(axis: str, labels: Sequence[str]) -> None:
    if not axis.strip() or not all(label.strip() for label in labels):
        raise ValueError(f"axis {axis!r} or a choice of it has an empty name; give it one")
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"axis {axis!r} has {', '.join(twice)} twice; every choice is another one")


def _check_paths(axes: Mapping[str, list[Any] | dict[str, Settings]]) -> None:
    """Two axes that set one path: the second would undo the first, and its effect be credited to it."""
    owners: dict[str, str] = {}
    for axis, choices in axes.items():
        paths = {path for settings in choices.values() for path in settings} if isinstance(choices, dict) else {axis}
        for path in paths:
            plain = path.strip().removesuffix(".name")  # a part's name alone says the same
            if (other := owners.setdefault(plain, axis)) != axis:
                raise ValueError(f"axes {other!r} and {axis!r} both set {path}; let one axis choose it")


def label_of(value: Any) -> str:
    """A value in few words: a part by its name and what else it says."""
    if isinstance(value, Mapping):
        rest = [f"{key}={label_of(v)}" for key, v in value.items() if key != "name"]
        return " ".join([*([str(value["name"])] if "name" in value else []), *rest])
    if isinstance(value, list):
        return ",".join(label_of(item) for item in value)
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def labels_of(choices: list[Any] | dict[str, Settings]) -> list[str]:
    """The names of an axis's choices, as tables show them."""
    return list(choices) if isinstance(choices, dict) else [label_of(value) for value in choices]


def _some(choices: list[Any] | dict[str, Settings], labels: Sequence[str] | None) -> list[Any] | dict[str, Settings]:
    """The choices of those labels, in their order; all without labels."""
    if labels is None:
        return choices
    if isinstance(choices, dict):
        return {label: choices[label] for label in labels}
    known = labels_of(choices)
    return [choices[known.index(label)] for label in labels]


def _tests(axes: Mapping[str, list[Any] | dict[str, Settings]], finding: Finding) -> bool:
    """Whether the axes have all choices that a finding compares."""
    return all(
        axis == "row" or (axis in axes and label in labels_of(axes[axis]))
        for choice in (finding.better, finding.than)
        for axis, label in choice.items()
    )


def _references(axes: Mapping[str, list[Any] | dict[str, Settings]]) -> Settings:
    """What the first choices of some axes set."""
    settings: Settings = {}
    for axis, choices in axes.items():
        settings |= next(iter(choices.values())) if isinstance(choices, dict) else {axis: choices[0]}
    return settings


def read_study(path: Path) -> StudySpec:
    """Read a study file: YAML, JSON or TOML.

    Raises:
        SpecError: every mistake, by path, with the line.
    """
    return validate_study(read_document(path))


def validate_study(document: Document) -> StudySpec:
    """See `read_study`."""
    try:
        study = StudySpec.model_validate(document.data)
    except ValidationError as error:
        raise SpecError([_problem(detail, document) for detail in error.errors(include_url=False)]) from None
    base = study.base
    if not isinstance(base, LocatedStr) and isinstance(document.data, Mapping):
        base = document.data["base"]
    folder = getattr(base, "base", Path.cwd())
    beside = folder / Path(base).expanduser()
    rows = {os.path.normpath(folder / Path(path).expanduser()): number for path, number in study.rows.items()}
    return study.model_copy(update={"base": str(beside) if beside.is_file() else str(base), "rows": rows})


def _problem(detail: Any, document: Document) -> Problem:
    path = tuple(detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = f"there is no such field. Fields of a study: {', '.join(StudySpec.model_fields)}"
    return Problem(".".join(map(str, path)), message, document.place(path))
