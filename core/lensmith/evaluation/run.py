"""A whole evaluation: questions, answers of an artifact, scores. What `lensmith eval` and studies call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensmith.artifacts import Manifest
from lensmith.errors import LensmithError
from lensmith.evaluation.runner import Job, answer, finish, jobs
from lensmith.evaluation.suite import BenchmarkEntry, Task
from lensmith.evaluation.summary import RESAMPLES
from lensmith.files import sha256
from lensmith.interfaces.benchmark import Benchmark, Judge

JudgeOf = Callable[[Job], "Judge | None"]


def say(text: str) -> None:
    """A line for the user."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Asking:
    """How answers are produced.

    Args:
        batch_size: questions that are answered together.
        temperature: 0 is greedy, as in the papers.
        top_p: nucleus mass when sampling.
        beams: beam-search width.
        seed: of sampling.
        max_new_tokens: longest answer; by default each benchmark's.
        keep_going: note what cannot be asked as an empty answer, instead of stopping.
        overrides: where a base has moved, `language_model.checkpoint=PATH`.
    """

    batch_size: int = 8
    temperature: float = 0.0
    top_p: float = 1.0
    beams: int = 1
    seed: int = 0
    max_new_tokens: int | None = None
    keep_going: bool = False
    overrides: Sequence[str] = ()

    def identity(self) -> dict[str, Any]:
        """What the answers depend on."""
        return {
            "overrides": list(self.overrides),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "beams": self.beams,
            "seed": self.seed if self.temperature else 0,
        }


@dataclass(frozen=True)
class Telling:
    """What is made of the scores.

    Args:
        resamples: of the bootstrap; 0 for no intervals.
        report_samples: answers on the HTML page, the worst ones.
    """

    resamples: int = RESAMPLES
    report_samples: int = 300


@dataclass
class Evaluation:
    """Benchmarks that one artifact is asked, in one folder.

    Args:
        artifact: what a stage wrote.
        tasks: what is asked.
        output: each benchmark gets a folder in it.
        asking: how answers are produced.

    Raises:
        LensmithError: files are missing, or the folder holds answers of another run.
    """

    artifact: Path
    tasks: Sequence[Task]
    output: Path
    asking: Asking = field(default_factory=Asking)

    def __post_init__(self) -> None:
        manifest = Manifest.read(self.artifact)
        for task in self.tasks:
            if not task.data.exists():
                raise LensmithError(f"{task.data}: there is no such folder of data")
            if self.asking.max_new_tokens is not None:
                task.benchmark.max_new_tokens = self.asking.max_new_tokens
        self.jobs = jobs(self.tasks, self.output)
        identity = {"manifest_sha256": sha256(manifest.folder / "manifest.json"), **self.asking.identity()}
        for job in self.jobs:
            job.open(identity)

    def open_jobs(self, shard: tuple[int, int] = (0, 1)) -> list[Job]:
        """Benchmarks of whose shard questions are not answered."""
        return [job for job in self.jobs if job.pending(shard)]

    def answer(self, shard: tuple[int, int] = (0, 1)) -> None:
        """Load the model and ask the shard's open questions; nothing is loaded where there are none.

        Raises:
            LensmithError: the artifact cannot be loaded, or a question cannot be asked; of several benchmarks, when
                the others are answered.
        """
        work = self.open_jobs(shard)
        if not work:
            return
        import torch

        from lensmith.evaluation.answering import ModelAnswerer
        from lensmith.interfaces.language_model import GenerationOptions
        from lensmith.loading import load

        if torch.cuda.is_available():
            torch.cuda.set_device(shard[0] % torch.cuda.device_count())
        asking = self.asking
        options = GenerationOptions(temperature=asking.temperature, top_p=asking.top_p, beams=asking.beams)
        answerer = ModelAnswerer(load(self.artifact, overrides=asking.overrides), options, asking.batch_size)
        torch.manual_seed(asking.seed + shard[0])
        failed = []
        for job in work:
            try:
                answer(
                    job,
                    answerer,
                    shard=shard,
                    batch_size=asking.batch_size,
                    model_id=self.artifact.name,
                    keep_going=asking.keep_going,
                    say=say,
                )
            except LensmithError as error:
                failed.append(error)
        if failed:
            raise _together(failed)

    def score(
        self, judge_of: JudgeOf = lambda job: None, telling: Telling | None = None
    ) -> tuple[list[dict[str, Any]], LensmithError | None]:
        """Score what is answered and write predictions, scores, submission and report of each benchmark.

        A benchmark whose questions are not all answered is left out, unless that leaves nothing.

        Args:
            judge_of: the judge of a judged benchmark, or None, which leaves it without a score.
            telling: what is made of the scores.

        Returns:
            The summaries, see `lensmith.evaluation.summary`, and what stopped benchmarks that are not among them (a
            judge that fails).

        Raises:
            LensmithError: questions of every benchmark are still open.
        """
        telling = telling or Telling()
        complete = [job for job in self.jobs if job.complete()]
        told: list[dict[str, Any]] = []
        failed: list[LensmithError] = []
        for job in complete or self.jobs:
            try:
                one = finish(
                    job,
                    judge_of,
                    artifact=str(self.artifact),
                    resamples=telling.resamples,
                    report_samples=telling.report_samples,
                    say=say,
                )
                told.append(one)
            except LensmithError as error:
                failed.append(error)
        if failed and not complete:
            raise _together(failed)
        return told, _together(failed) if failed else None

    def run(
        self, judge_of: JudgeOf = lambda job: None, telling: Telling | None = None
    ) -> tuple[list[dict[str, Any]], LensmithError | None]:
        """Answer and score.

        Returns:
            The summaries, and what stopped benchmarks that are not among them.

        Raises:
            LensmithError: no benchmark could be scored.
        """
        failed = []
        try:
            self.answer()
        except LensmithError as error:
            if not any(job.complete() for job in self.jobs):
                raise
            failed.append(error)
        told, failure = self.score(judge_of, telling)
        failed += [failure] if failure else []
        if failed and not told:
            raise _together(failed)
        return told, _together(failed) if failed else None


def _together(errors: Sequence[LensmithError]) -> LensmithError:
    return errors[0] if len(errors) == 1 else LensmithError("\n".join(map(str, errors)))


def evaluate(
    artifact: str | Path,
    benchmarks: Sequence[str],
    *,
    data: str | Path,
    output: str | Path,
    images: str | Path | None = None,
    options: Sequence[str] = (),
    limit: int | None = None,
    asking: Asking | None = None,
    judge_of: JudgeOf = lambda job: None,
    telling: Telling | None = None,
) -> list[dict[str, Any]]:
    """Ask an artifact the questions of benchmarks and score its answers; call it again to go on where it stopped.

    Args:
        artifact: what a stage wrote.
        benchmarks: names.
        data, images, limit: see `tasks`.
        output, asking: see `Evaluation`.
        judge_of, telling: see `Evaluation.score`.
        options: `field=value` of all the benchmarks, or `pope.field=value` of one.

    Returns:
        A summary for each benchmark.

    Raises:
        LensmithError: see `Evaluation`.
    """
    asked = tasks(made(benchmarks, options), Path(data), None if images is None else Path(images), limit)
    told, failure = Evaluation(Path(artifact), asked, Path(output), asking or Asking()).run(judge_of, telling)
    if failure is not None:
        raise failure
    return told


def tasks(benchmarks: Mapping[str, Benchmark], data: Path, images: Path | None, limit: int | None) -> list[Task]:
    """Benchmarks whose files lie together.

    Args:
        benchmarks: by name.
        data: folder of the official files, or a folder with a folder of each name.
        images: folder of the pictures, by default the data's.
        limit: only so many questions of each, the first ones.
    """
    return [Task(name, name, benchmark, data, images, limit) for name, benchmark in benchmarks.items()]


def suite_tasks(entries: Sequence[BenchmarkEntry], limit: int | None = None, judged: Sequence[str] = ()) -> list[Task]:
    """Benchmarks of a suite file.

    Args:
        entries: what it says.
        limit: of questions, of those entries that set none.
        judged: options of those with a judge, before the entry's own.

    Raises:
        LensmithError: an unknown name or option.
    """
    from lensmith.evaluation.choose import benchmark

    found = []
    for entry in entries:
        try:
            chosen = benchmark(entry.name, entry.written())
            if chosen.judged and judged:
                chosen = benchmark(entry.name, [*judged, *entry.written()])
        except LensmithError as error:
            raise LensmithError(f"{entry.title}: {error}") from error
        found.append(Task(entry.title, entry.name, chosen, entry.data, entry.images, entry.limit or limit))
    return found


def made(names: Sequence[str], options: Sequence[str], judged: Sequence[str] = ()) -> dict[str, Benchmark]:
    """Benchmarks by name.

    Args:
        names: of them.
        options: `field=value` of all, or `name.field=value` of one.
        judged: further options of those with a judge.

    Raises:
        LensmithError: an unknown name or option, or a name that comes twice.
    """
    from lensmith.evaluation.choose import benchmark

    if not names:
        raise LensmithError("no benchmark is named; see `lensmith list --kind benchmark`")
    if len(set(names)) < len(names):
        raise LensmithError(f"benchmarks {', '.join(names)}: a name comes twice")
    found = {}
    for name in names:
        own = []
        for option in options:
            owner, dot, _ = option.partition("=")[0].partition(".")
            if not dot:
                own.append(option)
            elif owner == name:
                own.append(option.partition(".")[2])
            elif owner not in names:
                raise LensmithError(f"option {option!r}: {owner!r} is not among the benchmarks {', '.join(names)}")
        chosen = benchmark(name, own)
        found[name] = benchmark(name, [*own, *judged]) if chosen.judged and judged else chosen
    return found
