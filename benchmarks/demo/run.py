"""The demo over several seeds: shares of right answers by task and seed, their median and worst, minutes and CPU time.

A seed draws the split into training and held-out originals, all rows and pictures, the order of the rows and fresh
weights. What is done already in `--folder` is not done again, so that an interrupted run goes on. With `--validation`
questions are about originals that are held out of those for training: to choose settings by, with overrides as
`lensmith train` takes them.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from processes import LENSMITH, RESULTS, run, table

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
AIMS = {
    "digit": (0.96, 0.90),
    "even or odd": (0.95, None),
    "read 2x2": (0.95, 0.85),
    "at a place 2x2": (0.90, None),
    "locate 2x2": (0.90, None),
    "count 2x2": (0.90, None),
    "compare 2x2": (0.85, None),
    "add 2x2": (0.85, None),
    "read 3x3": (0.60, None),
}
"""Shares that the median and the worst of the seeds are to reach."""


def one_seed(folder: Path, seed: int, *, validation: bool, overrides: Sequence[str]) -> dict[str, Any]:
    """Prepare, train and evaluate with a seed, in a folder laid out as the quickstart's; shares, minutes, steps."""
    done = folder / "result.json"
    if done.is_file():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spec = Path(shutil.copy(QUICKSTART / "digits.yaml", folder))
    stages = list(yaml.safe_load(spec.read_text(encoding="utf-8"))["stages"])
    prepare = [sys.executable, str(QUICKSTART / "prepare.py"), "--out", "work", "--seed", str(seed)]
    train = [LENSMITH, "train", "digits.yaml", "--output", "run", *overrides]
    evaluate = [sys.executable, str(QUICKSTART / "evaluate.py"), "--spec", "digits.yaml", "--run", "run"]
    costs = {
        "prepare": run([*prepare, *(["--validation"] if validation else [])], folder)[0],
        "train": run([*train, *(f"stages.{stage}.seed={42 + seed}" for stage in stages)], folder)[0],
        "evaluate": run([*evaluate, "--work", "work"], folder)[0],
    }
    metrics = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    lines = [(folder / "run" / "metrics" / f"{stage}.jsonl").read_text().splitlines() for stage in stages]
    result = {
        "seed": seed,
        "shares": {task: entry["trained"]["accuracy"] for task, entry in metrics["tasks"].items()},
        "questions": {task: entry["trained"]["of"] for task, entry in metrics["tasks"].items()},
        "steps": sum(map(len, lines)),
        "minutes": {name: cost.wall / 60 for name, cost in costs.items()},
        "cpu_minutes": {name: cost.cpu / 60 for name, cost in costs.items()},
    }
    shutil.rmtree(folder / "work" / "images")
    done.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def page(results: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> str:
    """The shares of every seed and what they took."""
    seeds = [str(result["seed"]) for result in results]
    rows = []
    for task in results[0]["shares"]:
        shares = [result["shares"][task] for result in results]
        aim = " / ".join(f"{share:.0%}" for share in AIMS.get(task, ()) if share is not None)
        middle, worst = statistics.median(shares), min(shares)
        rows.append([task, f"{middle:.0%}", f"{worst:.0%}", aim or "-", *(f"{share:.0%}" for share in shares)])
    minutes = [
        [name, *(f"{result['minutes'][name]:.1f} ({result['cpu_minutes'][name]:.1f})" for result in results)]
        for name in results[0]["minutes"]
    ]
    questions = sorted(set(results[0]["questions"].values()))
    about = "originals held out of those for training" if arguments.validation else "originals that training never saw"
    command = " ".join(["python", *sys.argv])
    return (
        f"# The demo over seeds\n\n`{command}`, {platform.machine()}, {time.strftime('%d %B %Y')}. Shares of right"
        f" answers about pictures of {about}, {questions[0]} to {questions[-1]} questions a task;"
        f" {results[0]['steps']} steps of training a seed.\n\n"
        + table(["task", "median", "worst", "aim: median / worst", *(f"seed {seed}" for seed in seeds)], rows)
        + "\n\nMinutes on the clock of a machine that did other work too, in brackets minutes of CPU time:\n\n"
        + table(["", *(f"seed {seed}" for seed in seeds)], minutes)
        + "\n"
    )


def main() -> None:
    """Read the command line, run every seed and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("overrides", nargs="*", help="as of `lensmith train`, e.g. model.language_model.layers=8")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="with commas between")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/demo/work"), help="folder of the runs")
    parser.add_argument("--validation", action="store_true", help="questions to choose settings by; writes no page")
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds.split(","):
        folder = arguments.folder.resolve() / f"seed-{seed}"
        results.append(one_seed(folder, int(seed), validation=arguments.validation, overrides=arguments.overrides))
        shares = ", ".join(f"{task} {share:.0%}" for task, share in results[-1]["shares"].items())
        print(f"seed {seed}: {shares}", file=sys.stderr)
    text = page(results, arguments)
    print(text)
    if not arguments.validation and not arguments.overrides:
        (RESULTS / "demo.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
