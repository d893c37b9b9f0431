"""Figures as in LLaVA-1.5's (arXiv 2310.03744): relative performance a benchmark, and against the share of data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith import files
from lensmith.ablation.results import Line, StudyResult
from lensmith.ablation.study import StudySpec, labels_of
from lensmith.ablation.tables import relative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RADAR = 3
"""Benchmarks from which on a radar says more than bars."""
_MOST = 12
"""Variants that one figure can hold; of more, each axis has its own."""


def write_figures(result: StudyResult, study: StudySpec, folder: Path) -> list[Path]:
    """Draw what there is, each as PNG and SVG; nothing without matplotlib or scores.

    Returns:
        The files: `relative` (bars, or a radar from three benchmarks on), for many variants `relative-AXIS`, and
        `by-AXIS` for each axis of numbers.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    if not any(line.scores for line in result.lines):
        return []
    drawn: list[tuple[str, Figure]] = []
    everyone = {line.variant.name: line for line in result.lines if line.scores}
    if len(everyone) <= _MOST or not study.axes:
        drawn.append(("relative", _relative(everyone, result)))
    else:
        for axis in study.axes:
            compared = {line.variant.choices[axis]: line for line in _along(result, axis) if line.scores}
            if len(compared) > 1:
                drawn.append((f"relative-{_file(axis)}", _relative(compared, result)))
    for axis, choices in study.axes.items():
        numbers = _numbers(labels_of(choices))
        if numbers is not None and len(numbers) > 1:
            # Of one change at a time, the others' variants all have the reference's number: they say nothing of it.
            shown = _along(result, axis) if study.design == "single" else result.lines
            drawn.append((f"by-{_file(axis)}", _against(result, shown, axis, numbers)))
    written = []
    with mpl.rc_context({"svg.hashsalt": "lensmith"}):  # the same results make the same file
        for name, figure in drawn:
            for suffix, options in ((".png", {"dpi": 150}), (".svg", {"metadata": {"Date": None}})):
                path = folder / f"{name}{suffix}"
                files.save_figure(figure, path, **options)
                written.append(path)
    return written


def _file(axis: str) -> str:
    return axis.replace(".", "-").replace("/", "-")


def _along(result: StudyResult, axis: str) -> list[Line]:
    """The reference and the variants that differ from it on one axis alone."""
    reference = result.lines[0].variant.choices
    return [
        line
        for line in result.lines
        if line.variant.choices.keys() == reference.keys()
        and all(line.variant.choices[other] == label for other, label in reference.items() if other != axis)
    ]


def _relative(lines: Mapping[str, Line], result: StudyResult) -> Figure:
    """Scores over those of the best of all variants, in per cent (their figure 3).

    Args:
        lines: by what each is called in the figure.
        result: for the best.
    """
    from matplotlib.figure import Figure

    names = list(result.benchmarks)
    if len(names) >= _RADAR and len(lines) <= _MOST:
        figure = Figure(figsize=(7, 7), layout="constrained")
        panel: Any = figure.add_subplot(projection="polar")
        angles = [2 * math.pi * i / len(names) for i in range(len(names))]
        for called, line in lines.items():
            shares = [relative(line, name, result) for name in names]
            values = [math.nan if share is None else 100 * share for share in shares]  # a gap is not drawn as a zero
            panel.plot([*angles, angles[0]], [*values, values[0]], label=called, marker=".")
        panel.set_ylim(0, 105)
        panel.set_xticks(angles, names)
        for angle, label in zip(angles, panel.get_xticklabels(), strict=True):  # beside the circle, not across it
            label.set_horizontalalignment(("center", "left", "right")[round(math.cos(angle))])
        panel.set_title("per cent of the best variant's score", pad=20)
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize="small", ncols=2)
        return figure
    figure = Figure(figsize=(8, 0.5 * len(lines) * max(1, len(names)) + 1.5), layout="constrained")
    panel = figure.subplots()
    height = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        at = [row + number * height for row in range(len(lines))]
        found = [line.scores.get(name) for line in lines.values()]
        errors = [[(max(0.0, f.mean - f.low) if f and f.low is not None else 0.0) for f in found]]
        errors.append([(max(0.0, f.high - f.mean) if f and f.high is not None else 0.0) for f in found])
        panel.barh(at, [f.mean if f else 0.0 for f in found], height=height, xerr=errors, capsize=2, label=name)
    panel.set_yticks([row + 0.4 - height / 2 for row in range(len(lines))], list(lines))
    panel.invert_yaxis()
    panel.set_xlabel("score with 95 % interval")
    panel.legend(fontsize="small")
    return figure


def _against(result: StudyResult, lines: Sequence[Line], axis: str, numbers: dict[str, float]) -> Figure:
    """Relative performance against a number, the mean over the variants that have it (their figure 4)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    for name in result.benchmarks:
        points = []
        for label, number in numbers.items():
            values = [
                value
                for line in lines
                if line.variant.choices.get(axis) == label and (value := relative(line, name, result)) is not None
            ]
            if values:
                points.append((number, 100 * statistics.fmean(values)))
        points.sort()
        if points:
            panel.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    panel.set_xlabel(axis)
    panel.set_ylabel("per cent of the best variant's score")
    panel.grid(alpha=0.3)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize="small")
    return figure


def _numbers(labels: Sequence[str]) -> dict[str, float] | None:
    try:
        return {label: float(label.rstrip("%")) for label in labels}
    except ValueError:
        return None
