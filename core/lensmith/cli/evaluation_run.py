"""`lensmith eval`: ask, in one process or several, and score."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lensmith.cli.evaluation import (
    JudgeCacheOption,
    JudgeMaxTokensOption,
    JudgeModelOption,
    JudgeParallelOption,
    JudgePriceOption,
    JudgeRepeatsOption,
    JudgeTemperatureOption,
    JudgeUrlOption,
    OptionOption,
    YesOption,
    judge_options,
    open_judge,
)
from lensmith.cli.output import print_json, print_table
from lensmith.errors import LensmithError

if TYPE_CHECKING:
    from lensmith.evaluation.judge import CachedJudge


def evaluate(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder that a stage wrote, or a checkpoint.")],
    output: Annotated[
        Path, typer.Option("--output", "-O", help="Folder of the results; in it one folder for each benchmark.")
    ],
    benchmark: Annotated[str | None, typer.Option("--benchmark", "-b", help="Names, with commas between them.")] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Official files: a folder, or one with a folder for each benchmark."),
    ] = None,
    suite: Annotated[
        Path | None,
        typer.Option(
            "--suite",
            "-s",
            help="File of benchmarks with their data; instead of --benchmark, --data, --images, --option.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Where a base has moved: language_model.checkpoint=PATH"),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the pictures; by default the data's.")
    ] = None,
    options: OptionOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions that are answered together.")] = 8,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N", help="Ask every N-th question from the I-th (from 0) on; with N above 1, score nothing."
        ),
    ] = "0/1",
    nproc: Annotated[
        int, typer.Option(min=1, help="Processes, each with its share and, where there are, its GPU.")
    ] = 1,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Only the first questions.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; by default the papers'.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy, as in the papers.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Nucleus mass when sampling.")] = 1.0,
    beams: Annotated[int, typer.Option(min=1, help="Beam search width.")] = 1,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    keep_going: Annotated[
        bool, typer.Option(help="Count a question that cannot be asked as answered by nothing.")
    ] = False,
    report_samples: Annotated[int, typer.Option(min=0, help="Answers on the HTML page, the worst ones.")] = 300,
    resamples: Annotated[int, typer.Option(min=0, help="Of the bootstrap; 0 for no intervals.")] = 1000,
    judge_url: JudgeUrlOption = None,
    judge_model: JudgeModelOption = None,
    judge_temperature: JudgeTemperatureOption = None,
    judge_repeats: JudgeRepeatsOption = None,
    judge_max_tokens: JudgeMaxTokensOption = None,
    judge_cache: JudgeCacheOption = None,
    judge_price: JudgePriceOption = None,
    judge_parallel: JudgeParallelOption = 4,
    yes: YesOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a model the questions of benchmarks and score its answers. Start it again to go on where it stopped."""
    from lensmith.evaluation.run import Asking, Evaluation, Telling, made, say, suite_tasks, tasks
    from lensmith.evaluation.runner import Job, write_predictions
    from lensmith.evaluation.suite import read_suite

    part = _shard(shard)
    if part[1] > 1 and nproc > 1:
        raise LensmithError("--nproc makes the shards itself; leave --shard out")
    judged = judge_options(judge_model, judge_temperature, judge_repeats)
    if suite is not None:
        if benchmark or data or images or options:
            raise LensmithError("--suite says which benchmarks, data, images and options; leave these flags out")
        asked = suite_tasks(read_suite(suite).benchmarks, limit, judged)
    elif benchmark is None or data is None:
        raise LensmithError("say what to ask: --benchmark NAMES with --data DIR, or --suite FILE")
    else:
        names = [name.strip() for name in benchmark.split(",") if name.strip()]
        asked = tasks(made(names, options or (), judged), data, images, limit)
    asking = Asking(
        batch_size=batch_size,
        temperature=temperature,
        top_p=top_p,
        beams=beams,
        seed=seed,
        max_new_tokens=max_new_tokens,
        keep_going=keep_going,
        overrides=overrides or (),
    )
    evaluation = Evaluation(artifact, asked, output, asking)
    failure: LensmithError | None = None
    if nproc > 1 and evaluation.open_jobs():
        try:
            _spawn(nproc, _without(sys.argv[1:], "--nproc"))
        except LensmithError as error:
            failure = error
    if part[1] > 1:
        evaluation.answer(part)
        say(f"shard {shard} is answered; run it without --shard to score when all are")
        return

    def judge_of(job: Job) -> CachedJudge:
        read = job.benchmark.read([write_predictions(job)])
        cache = judge_cache or job.folder / "judge.jsonl"
        wanted = [(job.title, job.benchmark, read, job.data)]
        return open_judge(
            wanted,
            judge_url,
            cache,
            price=judge_price,
            parallel=judge_parallel,
            yes=yes,
            max_tokens=judge_max_tokens,
        )

    telling = Telling(resamples, report_samples)
    if failure is None:
        told, failure = evaluation.run(judge_of, telling)
    else:  # what all processes answered is scored all the same
        told = evaluation.score(judge_of, telling)[0] if any(job.complete() for job in evaluation.jobs) else []
    if as_json:
        print_json(told)
    elif told:
        _show(told, output, say)
    if failure is not None:
        raise failure


def _show(told: Sequence[dict[str, Any]], output: Path, say: Callable[[str], None]) -> None:
    from lensmith.evaluation.summary import asked_with

    print_table(("BENCHMARK", "METRIC", "SCORE", "95 % INTERVAL", "RESULTS"), [_row(one, output) for one in told])
    for result in told:
        if result.get("suffix") and (asked := asked_with(result["title"], result["suffix"], result["options"])):
            say(asked)
        for note in result["notes"]:
            say(f"note: {result['title']}: {note}")


def _spawn(count: int, arguments: Sequence[str]) -> None:
    """Run the command once for each shard and wait.

    Raises:
        LensmithError: one of them failed; the others are stopped.
    """
    signal.signal(signal.SIGTERM, _stop)
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    running = [
        subprocess.Popen([sys.executable, "-m", "lensmith.cli", *arguments, "--shard", f"{i}/{count}"], env=environment)
        for i in range(count)
    ]
    try:
        codes = [process.wait() for process in running]
    except BaseException:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        raise
    if failed := [number for number, code in enumerate(codes) if code]:
        raise LensmithError(f"shard {', '.join(map(str, failed))} of {count} failed; start again to go on")


def _stop(number: int, _: object) -> None:
    raise KeyboardInterrupt


def _without(arguments: Sequence[str], flag: str) -> list[str]:
    """Arguments without a flag and its value."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == flag:
            skip = True
        elif not argument.startswith(f"{flag}="):
            kept.append(argument)
    return kept


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise LensmithError(f"--shard {text!r} should read I/N with I from 0 to N - 1, e.g. 0/4")
    return int(number), int(count)


def _row(told: dict[str, Any], output: Path) -> tuple[str, ...]:
    folder = str(output / told["title"])
    if told["score"] is None:
        return told["title"], "-", "not scored", "", folder
    ends = told["intervals"]["of"].get(told["headline"])
    score = told["score"]
    return (
        told["title"],
        told["headline"],
        f"{score:.2f}" if isinstance(score, float) else str(score),
        f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "",
        folder,
    )
