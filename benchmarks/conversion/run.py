"""How much memory import and export take beyond the files that they read.

Every process is watched while it runs: the largest sum of its anonymous and shared pages counts, which is all that the
system cannot drop. Pages of files that are mapped are told beside it; they are the page cache's.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from material import SIZES, write
from processes import LEAST, LENSMITH, publish, shown

LIMIT = 2.5
"""GB beyond the memory that the command takes for a model of a few megabytes."""


@dataclass(frozen=True)
class Watched:
    """Of one process: seconds, and the largest sizes seen in GB."""

    wall: float
    own: float
    mapped: float


def watch(command: list[str]) -> Watched:
    """Run a command and look at it every twentieth of a second."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    own = mapped = 0.0
    while process.poll() is None:
        sizes = _resident(process.pid)
        own = max(own, sizes.get("RssAnon", 0.0) + sizes.get("RssShmem", 0.0))
        mapped = max(mapped, sizes.get("RssFile", 0.0))
        time.sleep(0.05)
    assert process.stdout is not None
    text = process.stdout.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{text[-3000:]}")
    return Watched(time.perf_counter() - start, own, mapped)


def _resident(pid: int) -> dict[str, float]:
    """What /proc says, in GB; empty for a process that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = (line.split(":") for line in lines if line.startswith("Rss"))
    return {name: int(value.split()[0]) * 1024 / 1e9 for name, value in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--folder", type=Path, help="Where to write (three times the checkpoint at most).")
    parser.add_argument("--to", nargs="*", default=["hf", "llava"], help="Exporters to measure.")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="conversion-"))
    try:
        page, failures = measure(place, arguments.size, arguments.to)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    sys.exit(publish(f"conversion-{arguments.size}", page, failures))


def measure(place: Path, size: str, formats: list[str]) -> tuple[str, list[str]]:
    """The page, and the commands that took too much."""
    source, artifact = place / "source", place / "artifact"
    source.mkdir()
    total = write(source, SIZES[size]) / 1e9
    rows, failures = [], []
    base = watch([LENSMITH, "import", "--help"]).own
    steps = [("import", [LENSMITH, "import", str(source), "--output", str(artifact)])]
    for kind in formats:
        target = str(place / kind)
        steps.append((f"export --to {kind}", [LENSMITH, "export", str(artifact), "--to", kind, "--output", target]))
    for name, command in steps:
        cost = watch(command)
        print(f"{name}: {cost}", flush=True)
        rows.append(
            f"| `{name}` | {shown(cost.own - base, LEAST.peak / 1e3, 3)} | {cost.mapped:.2f} | {cost.wall:.0f} |"
        )
        if cost.own - base > LIMIT:
            failures.append(f"{name} took {cost.own - base:.2f} GB, the limit is {LIMIT}")
        for done in (source,) if name == "import" else (place / name.split()[-1],):
            for file in done.glob("*.safetensors"):
                file.unlink()
    head = [
        f"# Memory of import and export, {size}",
        "",
        f"A checkpoint of {total:.1f} GB in bf16 with random weights, in the original LLaVA's layout. Own memory is"
        " what the process has beyond the files it maps, without the interpreter; the limit is"
        f" {LIMIT} GB. Reading the files back and comparing logits is in it.",
        "",
        "| command | own memory (GB) | mapped pages (GB) | seconds |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows]) + "\n", failures


if __name__ == "__main__":
    main()
