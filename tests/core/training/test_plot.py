"""`lensmith plot`: what training wrote down, as pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from typer.testing import CliRunner

from lensmith.cli.app import app
from lensmith.errors import DataError, LensmithError
from lensmith.plotting import plot, read_run, smoothed
from lensmith.training.progress import Metrics


def write_run(folder: Path, loss: float = 4.0) -> Path:
    """Two stages whose names are not in the order in which they were trained."""
    for began, stage in ((100.0, "tune"), (50.0, "zero")):
        metrics = Metrics(folder / "metrics" / f"{stage}.jsonl", 0)
        for step in range(1, 31):
            entry = {"step": step, "loss": loss / step + step % 2, "lr": {"connector": 1e-3 / step, "lora": 1e-4}}
            metrics.write(entry | {"tokens": 100 * step, "seconds": 0.5, "time": began + step})
        metrics.close()
    return folder


def test_stages_follow_each_other_as_they_were_trained(tmp_path: Path) -> None:
    first, second = read_run(write_run(tmp_path))
    assert (first.stage, second.stage) == ("zero", "tune")
    assert list(first.steps) == list(range(1, 31))
    assert list(second.steps) == list(range(31, 61))
    assert first.lr[0] == 1e-3
    assert first.rate[1] == 400.0


def test_the_smoothed_curve_is_a_mean_of_what_was() -> None:
    assert smoothed([3.0] * 5) == pytest.approx([3.0] * 5)
    values = smoothed([1.0, 3.0])
    assert values == pytest.approx([1.0, (0.95 * 1 + 3) / 1.95])


def test_png_and_svg(tmp_path: Path) -> None:
    run = write_run(tmp_path / "first")
    result = CliRunner().invoke(app, ["plot", str(run)])
    assert result.exit_code == 0, result.output
    png, svg = (Path(line) for line in result.output.split())
    assert (png, svg) == (run / "plots" / "training.png", run / "plots" / "training.svg")
    with Image.open(png) as image:
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 20  # something is drawn
    text = svg.read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    for drawn in ("zero", "tune", "loss", "learning rate", "tokens a second", "optimiser step", "first"):
        assert f"<!-- {drawn} -->" in text, drawn
    again = plot([run], tmp_path / "again")
    assert again[1].read_bytes() == svg.read_bytes()


def test_runs_are_compared(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run", loss=9.0)]
    text = plot(runs, tmp_path / "out")[1].read_text()
    assert all(f"<!-- {run} -->" in text for run in runs)  # one name, so the paths tell them apart


def test_a_run_that_is_still_going_on(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with (run / "metrics" / "tune.jsonl").open("a") as file:
        file.write('{"step": 31, "lo')
    assert len(read_run(run)[1].steps) == 30


def test_what_cannot_be_drawn_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"holds no metrics \(metrics/STAGE.jsonl\); give the folder that"):
        plot([tmp_path], tmp_path)
    run = write_run(tmp_path)
    with (run / "metrics" / "tune.jsonl").open("a") as file:
        file.write('{"step": 31}\n')
    with pytest.raises(DataError, match=r"tune.jsonl:31: is no step's metrics \(KeyError: 'loss'\)"):
        plot([run], tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(LensmithError, match=r"drawing needs matplotlib; install it with: pip install 'lensmith\[plot"):
        plot([run], tmp_path)
