"""`lensmith score` and `lensmith eval`: benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lensmith.cli.output import print_json, print_table
from lensmith.errors import LensmithError

if TYPE_CHECKING:
    from lensmith.evaluation.judge import CachedJudge
    from lensmith.interfaces.benchmark import Benchmark, Predictions

OptionOption = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="NAME=VALUE", help="How it is scored; see `lensmith show benchmark NAME`."),
]
JudgeUrlOption = Annotated[
    str | None,
    typer.Option(
        "--judge-url", help="OpenAI-compatible endpoint, e.g. http://localhost:8000/v1; `openai` for OpenAI's."
    ),
]
JudgeModelOption = Annotated[str | None, typer.Option("--judge-model", help="The judge; by default the paper's.")]
JudgeTemperatureOption = Annotated[float | None, typer.Option("--judge-temperature", min=0.0, help="Of the judge.")]
JudgeRepeatsOption = Annotated[int | None, typer.Option("--judge-repeats", min=1, help="How often all is judged.")]
JudgeCacheOption = Annotated[
    Path | None,
    typer.Option(
        "--judge-cache",
        help="File of the judge's replies, each asked for once only; by default judge.jsonl beside the results.",
    ),
]
JudgePriceOption = Annotated[
    str | None, typer.Option("--judge-price", metavar="IN/OUT", help="US dollars for a million tokens.")
]
JudgeMaxTokensOption = Annotated[
    int | None,
    typer.Option(
        "--judge-max-tokens",
        min=1,
        help="Longest reply of the judge, thoughts included; by default the paper's, and more for one that thinks.",
    ),
]
JudgeParallelOption = Annotated[int, typer.Option("--judge-parallel", min=1, help="Requests at the same time.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Ask the judge without asking you, whatever it costs.")]


def score(
    benchmark: Annotated[str, typer.Argument(help="Name, see `lensmith list --kind benchmark`.")],
    predictions: Annotated[
        list[Path],
        typer.Option("--predictions", "-p", help="LLaVA's answer lines or the official file; repeat for several runs."),
    ],
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Folder of the official files; by default the predictions'.")
    ] = None,
    options: OptionOption = None,
    submission: Annotated[
        Path | None, typer.Option("--submission", help="Also write the file that the benchmark's server takes here.")
    ] = None,
    samples: Annotated[Path | None, typer.Option("--samples", help="Also write the score of each answer here.")] = None,
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
    """Score predictions as the papers did; the form of the file is recognised by what is in it."""
    import json

    from lensmith.evaluation.choose import benchmark as make
    from lensmith.evaluation.summary import lines, sample_rows, summary
    from lensmith.files import write_text, writing

    judged = judge_options(judge_model, judge_temperature, judge_repeats)
    chosen = make(benchmark, [*(options or ()), *judged])
    for path in predictions:
        if not path.exists():
            raise LensmithError(f"{path}: there is no such file")
    first = predictions[0]
    data = data or (first if first.is_dir() else first.parent)
    if not data.exists():
        raise LensmithError(f"{data}: there is no such folder (--data)")
    for parent in [path.parent for path in (samples, judge_cache) if path is not None]:
        if not parent.is_dir():
            raise LensmithError(f"{parent}: there is no such folder")
    read = chosen.read(predictions)
    judge = None
    if chosen.judged:
        judge = open_judge(
            [(benchmark, chosen, read, data)],
            judge_url,
            judge_cache or (first if first.is_dir() else first.parent) / "judge.jsonl",
            price=judge_price,
            parallel=judge_parallel,
            yes=yes,
            max_tokens=judge_max_tokens,
        )
    scores = chosen.score(read, data, judge)
    told = summary(benchmark, chosen, scores, resamples=resamples)
    told["notes"][:0] = read.notes
    if submission is not None:
        with writing(submission):
            submission.mkdir(parents=True, exist_ok=True)
            written = chosen.submission(read, data, submission)
        told["submission"] = [str(path) for path in written]
    if samples is not None:
        rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in sample_rows(scores))
        write_text(samples, "".join(rows))
    if as_json:
        print_json(told)
        return
    print_table(("METRIC", "VALUE", "95 % INTERVAL"), list(lines(told)))
    for path in told.get("submission", ()):
        print(f"written: {path}")
    for note in told["notes"]:
        print(f"note: {note}", file=sys.stderr)


def judge_options(model: str | None, temperature: float | None, repeats: int | None) -> list[str]:
    """The judge's flags as options of a judged benchmark."""
    flags = {"judge": model, "temperature": temperature, "repeats": repeats}
    return [f"{name}={value}" for name, value in flags.items() if value is not None]


def open_judge(
    wanted: Sequence[tuple[str, Benchmark, Predictions, Path]],
    url: str | None,
    cache: Path | None,
    *,
    price: str | None,
    parallel: int,
    yes: bool,
    max_tokens: int | None = None,
) -> CachedJudge:
    """The judge of some benchmarks, after its cost was told and agreed to.

    Raises:
        LensmithError: nobody agreed.
    """
    from lensmith.evaluation.endpoint import ROOM, openai_judge
    from lensmith.evaluation.judge import CachedJudge, estimate
    from lensmith.evaluation.progress import Counter

    judge = CachedJudge(cache, None, parallel=parallel)
    rates = _price(price)
    requests = [request for _, chosen, read, data in wanted for request in chosen.requests(read, data)]
    missing = judge.missing(requests)
    if url is None:
        return judge
    told = [replace(request, max_tokens=max_tokens or request.max_tokens) for request in missing]
    more = f"; one that thinks first takes up to {ROOM[-1]:,} more for a reply (--judge-max-tokens bounds it)"
    print(f"judge: {estimate(told, rates)}{more if missing and max_tokens is None else ''}", file=sys.stderr)
    if missing and not yes and not (sys.stdin.isatty() and typer.confirm("Ask the judge?", err=True)):
        raise LensmithError("the judge was not asked; --yes goes on")
    counter = Counter("judge", len(requests), len(requests) - len(missing))

    def report(had: int, wanted: int) -> None:
        counter.total = wanted
        counter.set(had)

    def say(text: str) -> None:
        print(f"judge: {text}", file=sys.stderr)

    asked = openai_judge(None if url == "openai" else url, max_tokens=max_tokens, say=say)
    return CachedJudge(cache, asked, parallel=parallel, report=report)


def _price(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        first, second = (float(part) for part in text.split("/"))
    except ValueError:
        raise LensmithError(f"--judge-price {text!r} should read IN/OUT, e.g. 30/60") from None
    return first, second
