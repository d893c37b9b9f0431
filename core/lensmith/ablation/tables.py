"""The results as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from lensmith import files
from lensmith.ablation.results import MEAN, Estimate, Line, StudyResult
from lensmith.ablation.study import StudySpec, label_of

_VERDICTS = {"agrees": "agrees", "disagrees": "disagrees", "open": "cannot tell"}


def write_tables(result: StudyResult, study: StudySpec, folder: Path, figures: Sequence[str] = ()) -> list[Path]:
    """Write `report.md`, `results.csv` and `results.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("report.md", "results.csv", "results.json")]
    files.write_text(paths[0], markdown(result, study, figures))
    files.write_text(paths[1], _csv(result))
    files.write_json(paths[2], result.as_dict())
    return paths


def markdown(result: StudyResult, study: StudySpec, figures: Sequence[str] = ()) -> str:
    """The report: scores, what each variant changes, costs, findings."""
    columns = _columns(result)
    lines = ["# Results", "", *_preface(study), ""]
    lines += _table(
        ["variant", *columns],
        [[line.variant.name, *(_score(line.scores.get(name), study) for name in columns)] for line in result.lines],
    )
    for reason, found in result.unscored.items():
        lines += ["", f"Not scored ({len(found)} runs): {reason}"]
    lines += ["", "## Relative to the best variant", ""]
    lines += _table(
        ["variant", *columns],
        [[line.variant.name, *(_relative(line, name, result) for name in columns)] for line in result.lines],
    )
    lines += ["", "## What each variant changes", ""]
    lines += _table(
        ["variant", "against the reference"],
        [[line.variant.name, _changes(line) or "the reference"] for line in result.lines],
    )
    lines += ["", "## Cost", ""]
    hours = [f"GPU hours ({study.hardware})", "of the last stage"] if study.hardware else []
    lines += _table(
        ["variant", "trained parameters", "FLOP", *hours, "minutes here"],
        [[line.variant.name, *_costs(line, hours=bool(hours))] for line in result.lines],
    )
    if result.verdicts:
        lines += ["", "## Findings", ""]
        lines += _table(
            ["finding", "source", "this study", "difference (95 %)", "pairs"],
            [
                [v.finding.claim, v.finding.source, _VERDICTS[v.verdict], _difference(v.difference), str(v.pairs)]
                for v in result.verdicts
            ],
        )
        lines += [
            "",
            "`agrees` and `disagrees` are said only where the whole interval of the difference lies on one side of"
            " zero. A small model on small data says nothing of a large one: the verdicts are about this study alone.",
        ]
    for name in figures:
        lines += ["", f"![{name}]({name})"]
    return "\n".join(lines) + "\n"


def _preface(study: StudySpec) -> list[str]:
    seeds = f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed"
    over = "over seeds (Student's t), and no narrower than over questions (bootstrap)"
    what = over if len(study.seeds) > 1 else "over questions (bootstrap)"
    return [f"Base `{Path(study.base).name}`, {seeds}; intervals are 95 % {what}."]


def _columns(result: StudyResult) -> list[str]:
    return [*result.benchmarks, *([MEAN] if len(result.benchmarks) > 1 else [])]


def _score(found: Estimate | None, study: StudySpec) -> str:
    if found is None:
        return "-"
    had, wanted = len(found.values), len(study.seeds)
    part = f" [{had} of {wanted} seeds]" if had < wanted else ""
    if found.low is None or found.high is None:
        return f"{found.mean:.1f}{part}"
    return f"{found.mean:.1f} ({found.low:.1f} to {found.high:.1f}){part}"


def relative(line: Line, name: str, result: StudyResult) -> float | None:
    """A score over the best variant's."""
    best = max((other.scores[name].mean for other in result.lines if name in other.scores), default=0.0)
    return line.scores[name].mean / best if name in line.scores and best > 0 else None


def _relative(line: Line, name: str, result: StudyResult) -> str:
    value = relative(line, name, result)
    return "-" if value is None else f"{100 * value:.0f} %"


def _changes(line: Line) -> str:
    return "; ".join(f"`{path}`: {label_of(a)} → {label_of(b)}" for path, (a, b) in line.changes.items())


def _costs(line: Line, *, hours: bool) -> list[str]:
    cost = line.cost
    planned = [cost.gpu_hours, cost.last_gpu_hours] if hours else []
    return [
        f"{cost.trainable:,}",
        "-" if cost.flops is None else f"{cost.flops:.2e}",
        *("-" if value is None else f"{value:.3g}" for value in planned),
        "-" if cost.seconds is None else f"{cost.seconds / 60:.1f}",
    ]


def _difference(found: Estimate | None) -> str:
    if found is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.mean:+.1f}"
    return f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---", *("---:" for _ in header[1:])]
    return [f"| {' | '.join(row)} |" for row in ([*header], rule, *escaped)]


def _csv(result: StudyResult) -> str:
    text = io.StringIO()
    axes = list(dict.fromkeys(axis for line in result.lines for axis in line.variant.choices))
    columns = _columns(result)
    scores = [f"{name} {what}" for name in columns for what in ("mean", "low", "high")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", *axes, *scores, "trainable", "flops", "gpu_hours", "last_gpu_hours", "seconds"])
    for line in result.lines:
        cells: list[float | None] = []
        for name in columns:
            found = line.scores.get(name)
            cells += [found.mean, found.low, found.high] if found else [None, None, None]
        cost = line.cost
        choices = [line.variant.choices.get(axis, "") for axis in axes]
        costs = [cost.trainable, cost.flops, cost.gpu_hours, cost.last_gpu_hours, cost.seconds]
        writer.writerow([line.variant.name, *choices, *cells, *costs])
    return text.getvalue()
