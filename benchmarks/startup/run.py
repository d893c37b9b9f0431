"""How long short commands take, against importing the four libraries that they stand on, with few and many plugins."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from crowd import DISTRIBUTIONS, PARTS, PLUGINS, install
from processes import LENSMITH, Cost, interleave, median, publish, run, table, versions

BARE = "import pydantic, pluggy, typer, yaml"
LIMIT = 2.5
"""Most times of the bare import's CPU seconds that a command may take."""


def spec_file(folder: Path) -> Path:
    """A user's spec: a shipped recipe and where the rows are."""
    (folder / "rows.json").write_text("[]")
    data = {"data": {"sources": "rows.json"}}
    file = folder / "run.json"
    file.write_text(json.dumps({"extends": "llava-1.5-7b", "stages": {"pretrain": data, "finetune": data}}))
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="rounds; each runs every command once")
    arguments = parser.parse_args()
    commands = {
        f'`python -c "{BARE}"`': [sys.executable, "-c", BARE],
        "`lensmith list`": [LENSMITH, "list"],
        "`lensmith show connector mlp`": [LENSMITH, "show", "connector", "mlp"],
        "`lensmith check SPEC`": [LENSMITH, "check", "run.json"],
        "`lensmith schema`": [LENSMITH, "schema"],
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        spec_file(folder)
        crowded = ["env", f"PYTHONPATH={install(folder / 'crowd')}", LENSMITH]
        commands["`lensmith list`, crowded"] = [*crowded, "list"]
        commands["`lensmith check SPEC`, crowded"] = [*crowded, "check", "run.json"]

        def cost(command: list[str]) -> Cost:
            return run(command, folder)[0]

        costs = interleave([(name, partial(cost, command)) for name, command in commands.items()], arguments.repeats)

    bare = next(iter(costs.values()))
    rows, failures = [], []
    for name, measured in costs.items():
        ratio = statistics.median(own.cpu / base.cpu for own, base in zip(measured, bare, strict=True))
        middle = median(measured)
        rows.append(
            (name, f"{1000 * middle.cpu:.0f}", f"{1000 * middle.wall:.0f}", f"{ratio:.2f}", f"{middle.peak:.0f}")
        )
        if ratio > LIMIT:
            failures.append(f"{name} takes {ratio:.2f} times the bare import, more than {LIMIT}")
    text = (
        "# Start-up\n\n"
        f"`python benchmarks/startup/run.py --repeats {arguments.repeats}` with"
        f" {versions('lensmith', 'pydantic', 'pluggy', 'typer', 'pyyaml')}.\n\n"
        f"{table(('command', 'CPU ms', 'wall ms', 'ratio', 'peak MB'), rows)}\n\n"
        f"Medians of {arguments.repeats} interleaved rounds, one process each. The ratio is the median over rounds of a"
        f" command's CPU time to the bare import's in the same round; the limit is {LIMIT}. SPEC extends the recipe"
        f" `llava-1.5-7b`. Crowded is with {DISTRIBUTIONS} more distributions, {PLUGINS} of them plugins of {PARTS}"
        " components, every component with a spec class of its own that its record names.\n"
    )
    return publish("startup", text, failures)


if __name__ == "__main__":
    sys.exit(main())
