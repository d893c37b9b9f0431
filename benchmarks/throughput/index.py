"""Starting on the rows of the 665K mixture: `json.load` of the whole file, against our index beside it."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from processes import Cost, draw, interleave, publish, resolution, run, shown, table, times, versions

ROWS = 665_298
FASTER, SMALLER = 100.0, 100.0
"""Least ratios of CPU time and of memory above the interpreter with its imports."""
BASE = "import json, random, sys, lensmith.data.sources"
LOAD = f"{BASE}\nrows = json.load(open(sys.argv[1]))\nassert len(rows) == int(sys.argv[2])"
OPEN = f"""{BASE}
from pathlib import Path
rows = lensmith.data.sources.RowFile(Path(sys.argv[1]))
assert len(rows) == int(sys.argv[2])
draw = random.Random(0)
for _ in range(100):
    assert rows[draw.randrange(len(rows))]["conversations"]
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; each starts every way once")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the generated file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = folder / "rows.json"
        write(file, arguments.rows)
        size = file.stat().st_size / 1e6
        said = [str(file), str(arguments.rows)]
        built, _ = run([sys.executable, "-c", OPEN, *said], folder)  # the first use makes the index
        ways = {"imports alone": BASE, "json.load": LOAD, "Lensmith, with 100 rows read": OPEN}
        jobs = [
            (name, lambda code=code: run([sys.executable, "-c", code, *said], folder)[0]) for name, code in ways.items()
        ]
        costs = interleave(jobs, arguments.repeats)
    bare = costs.pop("imports alone")
    above = {name: [_above(cost, base) for cost, base in zip(own, bare, strict=True)] for name, own in costs.items()}
    theirs, ours = above["json.load"], above["Lensmith, with 100 rows read"]
    least = {what: resolution(bare, what) for what in ("cpu", "peak")}
    faster, smaller = (
        times([getattr(t, what) for t in theirs], [getattr(o, what) for o in ours], least[what]) for what in least
    )
    lines = [
        (name, shown(_middle(own, "cpu"), least["cpu"]), shown(_middle(own, "peak"), least["peak"], 0))
        for name, own in above.items()
    ]
    text = (
        "# Starting on many rows\n\n"
        f"`python benchmarks/throughput/index.py --repeats {arguments.repeats} --rows {arguments.rows}` with"
        f" {versions('lensmith')}.\n\n"
        f"A list of {arguments.rows:,} rows in one JSON file of {size:,.0f} MB, lengths as uneven as those of the 665K"
        " mixture; the file stays as it is. CPU seconds and memory above those of a process that only imports, medians"
        f" of {arguments.repeats} rounds.\n\n"
        f"{table(('', 'CPU s', 'MB'), lines)}\n\n"
        f"{faster} faster, {smaller} less memory. Processes that only import differ by up to {least['cpu']:.2f} s and"
        f" {least['peak']:.0f} MB, and less than that is not told apart from nothing. The first use took"
        f" {built.cpu:.1f} CPU seconds:"
        " it finds and checks every row once. What remains is mapping the index and reading 100 rows; drawing the order"
        " of an epoch (a shuffle of all row numbers) comes on top when a stage starts.\n\n![ratios](index.svg)\n"
    )
    ratios = {"times faster": faster, "times less memory": smaller}
    draw("index", {"": {n: (v.values[0], v.middle, v.values[-1]) for n, v in ratios.items()}}, "against json.load")
    # What is only bounded below misses no claim: a larger file (--rows) would tell.
    failures = [f"{faster} faster, less than {FASTER:.0f}"] if faster.middle < FASTER and not faster.bound else []
    if smaller.middle < SMALLER and not smaller.bound:
        failures.append(f"{smaller} less memory, less than {SMALLER:.0f}")
    return publish("index", text, failures)


def write(file: Path, count: int) -> None:
    """LLaVA rows: a picture's name, and turns of a log-normal number of words."""
    draw = random.Random(0)
    words = [f"word{number}" for number in range(2000)]
    with file.open("w", encoding="utf-8") as opened:
        opened.write("[")
        for number in range(count):
            length = min(900, max(8, int(draw.lognormvariate(4.9, 0.9))))
            start = draw.randrange(1000)
            said = [words[(start + at) % 2000] for at in range(length)]
            half = length // 3
            turns: list[Any] = [
                {"from": "human", "value": "<image>\n" + " ".join(said[:half])},
                {"from": "gpt", "value": " ".join(said[half:])},
            ]
            row = {"id": f"{number:09d}", "image": f"coco/train2017/{number:012d}.jpg", "conversations": turns}
            opened.write((", " if number else "") + json.dumps(row))
        opened.write("]")


def _above(cost: Cost, base: Cost) -> Cost:
    return Cost(cost.wall - base.wall, cost.cpu - base.cpu, cost.peak - base.peak)


def _middle(costs: list[Cost], what: str) -> float:
    return statistics.median(getattr(cost, what) for cost in costs)


if __name__ == "__main__":
    sys.exit(main())
