"""Loss, learning rate and throughput of runs, drawn from the metrics that training leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.errors import DataError, LensmithError
from lensmith.files import save_figure
from lensmith.io.json import decode_text, parse_json, read_bytes
from lensmith.training.progress import Smoothed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = ("loss", "learning rate", "tokens a second")


@dataclass(frozen=True)
class StageCurve:
    """The metrics of one stage, one entry a step.

    Args:
        stage: its name.
        steps: optimiser steps, counted through all stages of the run from 1.
        loss: mean over the supervised tokens of a step.
        lr: peak of the groups' rates.
        rate: tokens a second, pictures included, padding not.
    """

    stage: str
    steps: Sequence[int]
    loss: Sequence[float]
    lr: Sequence[float]
    rate: Sequence[float]


def read_run(run: Path) -> list[StageCurve]:
    """The stages of a run in the order in which they were trained.

    Raises:
        DataError: the folder holds no metrics, or a line that cannot be read.
    """
    found = [(_entries(file), file.stem) for file in sorted((run / "metrics").glob("*.jsonl"))]
    found = [(entries, stage) for entries, stage in found if entries]
    if not found:
        raise DataError(f"{run} holds no metrics (metrics/STAGE.jsonl); give the folder that `lensmith train` wrote")
    found.sort(key=lambda pair: pair[0][0].get("time", 0.0))
    curves: list[StageCurve] = []
    done = 0
    for entries, stage in found:
        curves.append(
            StageCurve(
                stage,
                [done + entry["step"] for entry in entries],
                [entry["loss"] for entry in entries],
                [max(entry["lr"].values()) for entry in entries],
                [entry["tokens"] / max(entry["seconds"], 1e-9) for entry in entries],
            )
        )
        done = curves[-1].steps[-1]
    return curves


def smoothed(values: Sequence[float]) -> list[float]:
    """As the display smooths the loss."""
    mean = Smoothed()
    return [mean.add(value) for value in values]


def plot(runs: Sequence[str | Path], output: str | Path) -> list[Path]:
    """Draw runs over each other.

    Args:
        runs: folders of runs.
        output: folder that gets `training.png` and `training.svg`; made where it is missing.

    Returns:
        The two files.

    Raises:
        DataError: a run without metrics.
        LensmithError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        text = "drawing needs matplotlib; install it with: pip install 'lensmith[plot]'"
        raise LensmithError(text) from error
    folders = [Path(run) for run in runs]
    curves = [read_run(folder) for folder in folders]
    target = Path(output)
    target.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9, 9), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(len(_PANELS), 1, sharex=True)
    for number, (label, stages) in enumerate(zip(_labels(folders), curves, strict=True)):
        _draw(panels, stages, f"C{number % 10}", label if len(folders) > 1 else None)
    for panel, title in zip(panels, _PANELS, strict=True):
        panel.set_ylabel(title)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("optimiser step")
    if len(folders) == 1:
        _name_stages(panels, curves[0])
        figure.suptitle(folders[0].resolve().name)
    else:
        panels[0].legend()
    files = [target / "training.png", target / "training.svg"]
    with mpl.rc_context({"svg.hashsalt": "lensmith"}):  # the same metrics make the same file
        save_figure(figure, files[0], dpi=150)
        save_figure(figure, files[1], metadata={"Date": None})
    return files


def _entries(file: Path) -> list[dict[str, Any]]:
    entries = []
    lines = decode_text(read_bytes(file), str(file)).split("\n")[:-1]  # what follows the last newline is being written
    for number, line in enumerate(lines, 1):
        try:
            entry = parse_json(line, str(file), line=number)
            entries.append({name: entry[name] for name in ("step", "loss", "lr", "tokens", "seconds")})
            entries[-1]["time"] = entry.get("time", 0.0)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}:{number}: is no step's metrics ({type(error).__name__}: {error})") from error
    return entries


def _draw(panels: Sequence[Axes], stages: Sequence[StageCurve], color: str, label: str | None) -> None:
    for number, curve in enumerate(stages):
        panels[0].plot(curve.steps, curve.loss, color=color, alpha=0.25, linewidth=0.8)
        named = label if number == 0 else None
        panels[0].plot(curve.steps, smoothed(curve.loss), color=color, linewidth=1.6, label=named)
        panels[1].plot(curve.steps, curve.lr, color=color)
        panels[2].plot(curve.steps, curve.rate, color=color, alpha=0.25, linewidth=0.8)
        panels[2].plot(curve.steps, smoothed(curve.rate), color=color, linewidth=1.6)


def _name_stages(panels: Sequence[Axes], stages: Sequence[StageCurve]) -> None:
    """A line where a stage ends, and its name at its first step."""
    for curve in stages:
        panels[0].annotate(curve.stage, (curve.steps[0], 1.0), xycoords=("data", "axes fraction"), va="bottom")
    for curve in stages[:-1]:
        for panel in panels:
            panel.axvline(curve.steps[-1] + 0.5, color="0.6", linewidth=0.8, linestyle="--")


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names that tell runs apart: the folder's, or its path where names are the same."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
