"""What a plan of each shipped recipe costs, against building its model on torch's meta device."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from processes import LENSMITH, Cost, interleave, median, publish, run, table, versions

from lensmith.spec import installed, load_spec, recipes

RECIPES = tuple(sorted(recipes(installed())))
SECONDS = 0.5
MEGABYTES = 100
"""Most that planning one may take: wall seconds and resident memory of the whole process."""
META_BUILD = str(Path(__file__).resolve().with_name("meta_build.py"))


def write_spec(folder: Path, recipe: str) -> str:
    """A user's spec that extends a recipe; a plan reads no rows, so none are there."""
    data = {"data": {"sources": "rows.json"}}
    name = f"{recipe}.json"
    (folder / name).write_text(json.dumps({"extends": recipe, "stages": {"pretrain": data, "finetune": data}}))
    return name


def distinct_models() -> list[str]:
    """A recipe for each model that there is; several recipes train the same one."""
    found: dict[str, str] = {}
    for recipe in RECIPES:
        found.setdefault(load_spec(recipe).model.model_dump_json(), recipe)
    return list(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--repeats", type=int, default=5, help="rounds; each plans every recipe and builds every model once"
    )
    arguments = parser.parse_args()
    planned: dict[str, dict[str, int]] = {}
    built: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in distinct_models()}
    failures: list[str] = []

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def plan(recipe: str) -> Callable[[], Cost]:
            name = write_spec(folder, recipe)

            def once() -> Cost:
                cost, text = run([LENSMITH, "plan", name, "--json"], folder)
                planned[recipe] = json.loads(text)["parameters"]
                return cost

            return once

        def build(recipe: str) -> Callable[[], Cost]:
            def once() -> Cost:
                cost, text = run([sys.executable, META_BUILD, f"{recipe}.json"], folder)
                result = json.loads(text.splitlines()[-1])
                built[recipe].append(result)
                if result["parameters"] != planned[recipe]:
                    failures.append(f"{recipe}: planned {planned[recipe]}, built {result['parameters']}")
                return cost

            return once

        jobs = [(f"plan {recipe}", plan(recipe)) for recipe in RECIPES]
        jobs += [(f"build {recipe}", build(recipe)) for recipe in built]
        for name, job in jobs:  # a build compares itself with its plan
            if name.startswith("plan"):
                job()
        costs = interleave(jobs, arguments.repeats)

    rows = []
    for recipe in RECIPES:
        own = median(costs[f"plan {recipe}"])
        building = ("", "", "", "")
        if recipe in built:
            other = median(costs[f"build {recipe}"])
            alone = statistics.median(result["build"] for result in built[recipe])
            building = (f"{other.wall:.2f}", f"{other.cpu:.2f}", f"{other.peak:.0f}", f"{alone:.2f}")
        rows.append(
            (
                f"`{recipe}`",
                f"{planned[recipe]['total']:,}",
                f"{own.wall:.2f}",
                f"{own.cpu:.2f}",
                f"{own.peak:.0f}",
                *building,
            )
        )
        if own.wall >= SECONDS:
            failures.append(f"planning {recipe} takes {own.wall:.2f} s, not less than {SECONDS}")
        if own.peak >= MEGABYTES:
            failures.append(f"planning {recipe} takes {own.peak:.0f} MB, not less than {MEGABYTES}")
    header = (
        "recipe",
        "parameters",
        "plan: wall s",
        "CPU s",
        "peak MB",
        "meta build: wall s",
        "CPU s",
        "peak MB",
        "of it building s",
    )
    text = (
        "# Planning and assembly\n\n"
        f"`python benchmarks/assembly/run.py --repeats {arguments.repeats}` with"
        f" {versions('lensmith', 'torch', 'transformers', 'pydantic')}.\n\n"
        f"{table(header, rows)}\n\n"
        f"Medians of {arguments.repeats} interleaved rounds; each number is of a whole process, with Python's start."
        f" `lensmith plan` reads config files alone; the limits are {SECONDS} s and {MEGABYTES} MB. The other way"
        " builds every module without memory for its weights (torch's meta device), after importing torch and"
        " transformers; it is measured once for each model that several recipes share. Both count the same parameters,"
        " part by part, which each round verifies.\n"
    )
    return publish("assembly", text, sorted(set(failures)))


if __name__ == "__main__":
    sys.exit(main())
