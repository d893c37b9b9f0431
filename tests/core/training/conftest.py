"""Runs of a tiny model: in this process, or as a user's command with one or two ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import lensmith
from lensmith.data.sources import Mixture
from lensmith.spec.run import DataSpec

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
PALETTE = ("red", "green", "blue")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """As the workers have, so that sums are made in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Run:
    """The folder of a run."""

    folder: Path

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        """The lines that the stage left."""
        lines = (self.folder / "metrics" / f"{stage}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def losses(self, stage: str) -> list[float]:
        """One a step."""
        return [entry["loss"] for entry in self.metrics(stage)]

    def manifest(self, stage: str) -> dict[str, Any]:
        """What the artifact says."""
        return dict(json.loads((self.folder / stage / "manifest.json").read_text()))

    def weights(self, stage: str) -> dict[str, torch.Tensor]:
        """Every tensor that the artifact holds, by file and name."""
        artifact = self.folder / stage
        files = sorted(artifact.rglob("*.safetensors"))
        return {f"{f.relative_to(artifact)}:{n}": t for f in files for n, t in load_file(f).items()}

    def checkpoints(self, stage: str) -> list[int]:
        """Steps of its checkpoints."""
        folder = self.folder / "checkpoints" / stage
        return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))

    def checkpoint(self, stage: str, step: int) -> Path:
        """Folder of one."""
        return self.folder / "checkpoints" / stage / f"step-{step:08d}"


class Lab:
    """What the tests of training do over and over."""

    run = Run

    def train(self, spec: dict[str, Any], folder: Path, **options: Any) -> Run:
        """Train in this process."""
        lensmith.train(spec, output=folder, **options)
        return Run(folder)

    def stages(self, spec: dict[str, Any], **chosen: dict[str, Any]) -> dict[str, Any]:
        """The same model with other stages, which get quick defaults."""
        some = next(iter(spec["stages"].values()))
        defaults = {"data": some["data"], "lr": 1e-3, "batch": {"size": 4}, "precision": "fp32"}
        return {"model": spec["model"], "stages": {name: {**defaults, **stage} for name, stage in chosen.items()}}

    def arrange(self, folder: Path, kinds: str, seed: int = 42) -> Path:
        """Rows whose kinds come in this order in the first epoch: `t` text alone, `1` a picture, `2` two of them."""
        folder.mkdir(exist_ok=True)
        for color in PALETTE:
            Image.new("RGB", (36, 28), color).save(folder / f"{color}.png")
        file = folder / f"{kinds}.jsonl"
        file.write_text("{}\n" * len(kinds))
        order = Mixture(DataSpec.model_validate({"sources": str(file)})).epoch(seed, 0)
        rows: list[dict[str, Any]] = [{}] * len(kinds)
        for position, (number, kind) in enumerate(zip(order, kinds, strict=True)):
            shown = [PALETTE[(position + i) % 3] for i in range(0 if kind == "t" else int(kind))]
            question = "<image>" * len(shown) + f"What is number {position}?"
            answer = " and ".join(shown) or "nothing at all " * (position % 3 + 1)
            rows[number] = {
                "id": f"{position}{kind}",
                "image": [f"{name}.png" for name in shown],
                "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
            }
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    def command(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """`lensmith` in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "lensmith.cli", *map(str, arguments)],
            env=os.environ | ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 600) -> tuple[int, str, str]:
        """Exit code and output."""
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"the command did not end within {timeout} s:\n{out}\n{err}")
        return process.returncode, out, err

    def lensmith(self, *arguments: str | Path) -> str:
        """Run a command that must succeed; returns what it printed."""
        code, out, err = self.finish(self.command(*arguments))
        assert code == 0, f"exit code {code}\n{out}\n{err}"
        return out

    def wait_for(self, condition: Callable[[], object], process: subprocess.Popen[str], timeout: float = 300) -> None:
        """Until something is there, while the process lives."""
        end = time.monotonic() + timeout
        while not condition():
            if process.poll() is not None:
                out, err = process.communicate()
                pytest.fail(f"the command ended with {process.returncode} before it was killed:\n{out}\n{err}")
            if time.monotonic() > end:
                os.killpg(process.pid, signal.SIGKILL)
                pytest.fail("what was waited for did not come")
            time.sleep(0.002)


@pytest.fixture(scope="session")
def lab() -> Lab:
    """See `Lab`."""
    return Lab()


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """A spec as a file for commands."""

    def write(spec: dict[str, Any]) -> Path:
        file = tmp_path / "spec.json"
        file.write_text(json.dumps(spec))
        return file

    return write
