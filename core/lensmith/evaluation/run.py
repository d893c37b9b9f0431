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
    """The benchmarks of one artifact in one folder.

    Args:
        artifact: what a stage wrote.
        benchmarks: by name, see `lensmith.evaluation.choose.benchmark`.
        data: folder of the official files, or a folder with a folder of each name.
        output: each benchmark gets a folder in it.
        images: folder of the pictures, by default the data's.
        limit: only so many questions of each, the first ones.
        asking: how answers are produced.

    Raises:
        LensmithError: files are missing, or the folder holds answers of another run.
    """

    artifact: Path
    benchmarks: Mapping[str, Benchmark]
    data: Path
    output: Path
    images: Path | None = None
    limit: int | None = None
    asking: Asking = field(default_factory=Asking)

    def __post_init__(self) -> None:
        manifest = Manifest.read(self.artifact)
        if not self.data.exists():
            raise LensmithError(f"{self.data}: there is no such folder of data")
        if self.asking.max_new_tokens is not None:
            for benchmark in self.benchmarks.values():
                benchmark.max_new_tokens = self.asking.max_new_tokens
        self.jobs = jobs(self.benchmarks, self.data, self.images, self.output, self.limit)
        identity = {"manifest_sha256": sha256(manifest.folder / "manifest.json"), **self.asking.identity()}
        for job in self.jobs:
            job.open(identity)

    def open_jobs(self, shard: tuple[int, int] = (0, 1)) -> list[Job]:
        """Benchmarks of whose shard questions are not answered."""
        return [job for job in self.jobs if job.pending(shard)]

    def answer(self, shard: tuple[int, int] = (0, 1)) -> None:
        """Load the model and ask the shard's open questions; nothing is loaded where there are none.

        Raises:
            LensmithError: the artifact cannot be loaded, or a question cannot be asked.
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
        for job in work:
            answer(
                job,
                answerer,
                shard=shard,
                batch_size=asking.batch_size,
                model_id=self.artifact.name,
                keep_going=asking.keep_going,
                say=say,
            )

    def score(self, judge_of: JudgeOf = lambda job: None, telling: Telling | None = None) -> list[dict[str, Any]]:
        """Score what is answered and write predictions, scores, submission and report of each benchmark.

        Args:
            judge_of: the judge of a judged benchmark, or None, which leaves it without a score.
            telling: what is made of the scores.

        Returns:
            The summaries, see `lensmith.evaluation.summary`.

        Raises:
            LensmithError: questions are still open.
        """
        telling = telling or Telling()
        return [
            finish(
                job,
                judge_of(job) if job.benchmark.judged else None,
                artifact=str(self.artifact),
                resamples=telling.resamples,
                report_samples=telling.report_samples,
                say=say,
            )
            for job in self.jobs
        ]


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
        data, output, images, limit, asking, judge_of, telling: see `Evaluation`.
        options: `field=value` of all the benchmarks, or `pope.field=value` of one.

    Returns:
        A summary for each benchmark.

    Raises:
        LensmithError: see `Evaluation`.
    """
    evaluation = Evaluation(
        Path(artifact),
        made(benchmarks, options),
        Path(data),
        Path(output),
        None if images is None else Path(images),
        limit,
        asking or Asking(),
    )
    evaluation.answer()
    return evaluation.score(judge_of, telling)


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
