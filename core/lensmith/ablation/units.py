"""Pieces of work, each known by what it depends on: variants that share a stage share its artifact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensmith import files
from lensmith.ablation.study import JudgeEntry, StudySpec
from lensmith.ablation.variants import Variant
from lensmith.evaluation.suite import BenchmarkEntry
from lensmith.io.json import read_json
from lensmith.spec.build import dump
from lensmith.spec.run import RunSpec

_MANIFEST = "manifest.json"
_TEXTS = {".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt", ".xlsx"}
"""Files of a benchmark that its scores depend on."""
_NOT_RESULTS = {"checkpoints", "cache"}
"""Fields of a stage that change how it runs, not what comes out."""


@dataclass(frozen=True)
class TrainUnit:
    """One stage from one artifact, on one set of rows.

    Args:
        key: hash of the resolved spec up to this stage and of its rows.
        stage: its name.
        spec: with this stage alone; `start_from` is filled in when it runs.
        folder: of the run.
        needs: the stage before, if any.
        owners: variants and seeds that it is part of.
    """

    key: str
    stage: str
    spec: RunSpec
    folder: Path
    needs: TrainUnit | None
    owners: list[tuple[str, int]] = field(default_factory=list, compare=False)

    @property
    def artifact(self) -> Path:
        """What it leaves."""
        return self.folder / "run" / self.stage

    @property
    def done(self) -> bool:
        """Whether the artifact is there; it appears whole or not at all."""
        return (self.artifact / _MANIFEST).is_file()

    @property
    def ended(self) -> bool:
        """What a command that ended well leaves."""
        return self.done

    @property
    def title(self) -> str:
        """For progress."""
        return f"train {self.stage} ({_owners(self.owners)})"

    def arguments(self) -> list[str]:
        """Of the `lensmith` command; writes the spec that it names."""
        self.folder.mkdir(parents=True, exist_ok=True)
        spec = self.spec
        if self.needs is not None:
            spec = spec.model_copy(update={"start_from": self.needs.artifact.resolve()})
        files.write_json(self.folder / "spec.json", dump(spec))
        # As training sees it: a folder without a whole checkpoint is nothing to resume from.
        begun = any((self.folder / "run" / "checkpoints" / self.stage).glob("step-*/manifest.json"))
        resume = ["--resume"] if begun else []
        return ["train", str(self.folder / "spec.json"), "--output", str(self.folder / "run"), *resume]


@dataclass(frozen=True)
class Score:
    """One artifact on one benchmark.

    Args:
        key: hash of the artifact's key, the benchmark and its questions.
        benchmark: what is asked.
        scores: folder of the scores of a study, one folder in it for each key.
    """

    key: str
    benchmark: BenchmarkEntry
    scores: Path

    @property
    def written(self) -> bool:
        """Whether the summary is there."""
        return bool(self.told())

    @property
    def unscored(self) -> str:
        """Why what was answered could not be scored; empty where it could, or is not there."""
        return str(self.told().get("unscored", ""))

    @property
    def done(self) -> bool:
        """Whether the score is there. What could not be scored is tried again: its answers are kept."""
        return self.written and not self.unscored

    def told(self) -> dict[str, Any]:
        """The summary; empty where there is none that can be read."""
        try:
            return dict(read_json(self.summary))
        except (OSError, ValueError, TypeError):
            return {}

    @property
    def summary(self) -> Path:
        """Scores, written last."""
        return self.scores / self.key / "summary.json"


@dataclass(frozen=True)
class ScoreUnit:
    """One artifact on all benchmarks, so that it is loaded once.

    Args:
        scores: of each benchmark.
        folder: of the command's own files.
        needs: the stage that writes the artifact.
        judge: of judged benchmarks.
        owners: variants and seeds that it is part of.
    """

    scores: Sequence[Score]
    folder: Path
    needs: TrainUnit
    judge: JudgeEntry | None = None
    owners: list[tuple[str, int]] = field(default_factory=list, compare=False)

    @property
    def done(self) -> bool:
        """Whether every score is there."""
        return all(score.done for score in self.scores)

    @property
    def ended(self) -> bool:
        """Whether every summary is there, be it one that says why there is no score."""
        return all(score.written for score in self.scores)

    @property
    def title(self) -> str:
        """For progress."""
        asked = ", ".join(score.benchmark.title for score in self.scores if not score.done)
        return f"score{asked and f' {asked}'} ({_owners(self.owners)})"

    def arguments(self) -> list[str]:
        """Of the `lensmith` command; writes the suite that it names."""
        self.folder.mkdir(parents=True, exist_ok=True)
        asked = {score.key: score.benchmark for score in self.scores if not score.done}  # equal entries once
        entries = [entry.model_copy(update={"label": key}).model_dump(mode="json") for key, entry in asked.items()]
        suite = self.folder / "suite.json"
        files.write_json(suite, {"benchmarks": entries})
        arguments = ["eval", str(self.needs.artifact), "--suite", str(suite), "--output", str(self.scores[0].scores)]
        if self.judge is not None:
            arguments += ["--judge-url", self.judge.url, "--judge-parallel", str(self.judge.parallel), "--yes"]
            arguments += ["--judge-cache", str(self.judge.cache)] if self.judge.cache else []
        return arguments


Unit = TrainUnit | ScoreUnit


@dataclass(frozen=True)
class Work:
    """All units of a study, each once, in an order in which they can run."""

    training: dict[tuple[str, int], list[TrainUnit]]
    """The stages of each variant and seed."""
    scoring: dict[tuple[str, int], ScoreUnit]
    """Its benchmarks; missing where a study has none, or a variant trains nothing."""

    def units(self) -> list[Unit]:
        """Every unit once; what another needs comes before it."""
        seen: dict[Path, Unit] = {}
        for owner, stages in self.training.items():
            own: list[Unit] = [*stages, *([self.scoring[owner]] if owner in self.scoring else [])]
            for unit in own:
                seen.setdefault(unit.folder, unit)
        return list(seen.values())


def work(study: StudySpec, found: Sequence[Variant], output: Path) -> Work:
    """Resolve every variant with every seed; rows that are not there count as what their path says (see `missing`).

    Raises:
        SpecError: a variant that cannot work, before anything runs.
    """
    stages: dict[str, TrainUnit] = {}
    scored: dict[str, ScoreUnit] = {}
    hashes: dict[Path, str] = {}
    training: dict[tuple[str, int], list[TrainUnit]] = {}
    scoring: dict[tuple[str, int], ScoreUnit] = {}
    for variant in found:
        for seed in study.seeds:
            spec = variant.spec(study, seed)
            owner = (variant.name, seed)
            chain: list[TrainUnit] = []
            for unit in _stages(spec, output, hashes):
                shared = stages.setdefault(unit.key, unit)
                shared.owners.append(owner)
                chain.append(shared)
            training[owner] = chain
            if not (chain and study.benchmarks):
                continue
            last = chain[-1]
            if last.key not in scored:
                scores = [_score(last, entry, output, hashes) for entry in study.benchmarks]
                scored[last.key] = ScoreUnit(scores, output / "scores" / "of" / last.key, last, study.judge)
            scored[last.key].owners.append(owner)
            scoring[owner] = scored[last.key]
    return Work(training, scoring)


def _score(artifact: TrainUnit, entry: BenchmarkEntry, output: Path, hashes: dict[Path, str]) -> Score:
    said = entry.model_dump(mode="json", exclude={"label"})
    return Score(_digest([artifact.key, said, _hash(entry.data, hashes)]), entry, output / "scores")


def _stages(spec: RunSpec, output: Path, hashes: dict[Path, str]) -> Iterator[TrainUnit]:
    plain = dump(spec)
    before: TrainUnit | None = None
    said: Any = {"model": plain["model"], "start_from": _start(spec, hashes)}
    for name, stage in spec.stages.items():
        data = {k: v for k, v in plain["stages"][name]["data"].items() if k != "workers"}
        own = {k: v for k, v in plain["stages"][name].items() if k not in _NOT_RESULTS} | {"data": data}
        rows = [_hash(source.path, hashes) for source in stage.data.sources]
        said = [said, name, own, rows]
        key = _digest(said)
        alone = spec.model_copy(update={"stages": {name: stage}})
        before = TrainUnit(key, name, alone, output / "stages" / key, before)
        said = key
        yield before


def _start(spec: RunSpec, hashes: dict[Path, str]) -> str | None:
    return None if spec.start_from is None else _hash(spec.start_from / _MANIFEST, hashes)


def missing(units: Sequence[Unit]) -> list[Path]:
    """Files of rows and benchmarks, and artifacts to start from, that units name and that are not there."""
    named: dict[Path, None] = {}
    for unit in units:
        if isinstance(unit, ScoreUnit):
            asked = [score.benchmark for score in unit.scores]
            named |= dict.fromkeys(path for entry in asked for path in (entry.data, entry.images) if path is not None)
            continue
        start = unit.spec.start_from
        named |= {start / _MANIFEST: None} if start is not None else {}
        named |= {source.path: None for stage in unit.spec.stages.values() for source in stage.data.sources}
    return [path for path in named if not path.exists()]


def _hash(path: Path, hashes: dict[Path, str]) -> str:
    if path not in hashes:
        if path.is_dir():
            hashes[path] = _folder_hash(path)
        else:
            hashes[path] = files.sha256(path) if path.is_file() else f"missing: {path}"
    return hashes[path]


def _folder_hash(folder: Path) -> str:
    """Of the questions and labels below a folder; pictures are taken to be what their names say."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _TEXTS and path.is_file())
    return _digest([[str(path.relative_to(folder)), files.sha256(path)] for path in found])


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _owners(owners: Sequence[tuple[str, int]]) -> str:
    variant, seed = owners[0]
    more = f" and {len(owners) - 1} more" if len(owners) > 1 else ""
    return f"{variant}, seed {seed}{more}"
