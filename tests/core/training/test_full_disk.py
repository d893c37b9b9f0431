"""A disk that fills up, for real: a small file system of its own, in which a run saves until nothing fits any more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STEPS = 8
# Runs in a mount namespace of its own. One process tries several sizes, since starting one takes the most time.
SCRIPT = """
import json, os, shutil, subprocess, sys
from pathlib import Path

import lensmith
from lensmith.errors import LensmithError
from lensmith.training import checkpoint

spec, disk, kept, sizes = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
told = []
for size in sizes:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=True)
    run = disk / "run"
    try:
        lensmith.train(spec, output=run)
        message = ""
    except LensmithError as error:
        message = str(error)
    stage = run / "checkpoints" / "tune"
    names = sorted(path.name for path in stage.iterdir()) if stage.is_dir() else []
    steps = [int(name.removeprefix("step-")) for name in names if not name.startswith(".")]
    damage = [problem for step in steps for problem in checkpoint.damage(checkpoint.folder_of(run, "tune", step))]
    left = [str(path.relative_to(run)) for path in run.rglob(".writing-*")]
    told.append({"size": size, "message": message, "steps": steps, "damage": damage, "left": left,
                 "artifact": (run / "tune").exists()})
    if size == sizes[-1]:
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        lensmith.train(spec, output=run, resume=bool(steps))
        shutil.copytree(run, kept)
    subprocess.run(["umount", "--lazy", disk], check=True)
print("TOLD" + json.dumps(told))
"""


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """The command in front of one that may mount."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own (unshare --user --mount)")
    return command


def test_the_disk_fills_up(
    lab: Any,
    namespace: list[str],
    model_spec: dict[str, Any],
    rows: Path,
    write_spec: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
) -> None:
    stage = {
        "tuner": {"name": "lora", "rank": 2, "dropout": 0.3},
        "data": {"sources": [str(rows)]},
        "lr": 1e-2,
        "max_steps": STEPS,
        "batch": {"size": 4},
        "precision": "fp32",
        "deepspeed": {"zero": 2},
        "checkpoints": {"every": 2, "keep": 2},
    }
    spec = {"model": model_spec, "stages": {"tune": stage}}
    whole = lab.train(spec, tmp_path / "whole")
    one = sum(p.stat().st_size for p in whole.checkpoint("tune", 2 * (STEPS // 2 - 1)).rglob("*") if p.is_file())
    # Room for none, for half of one, for nearly one, for one and for two, each with some kilobytes to spare or not.
    sizes = [str(int(share * one / 1000)) for share in (0.3, 0.6, 0.9, 1.15, 1.5, 2.2, 2.5)]
    (tmp_path / "disk").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = [tmp_path / "script.py", write_spec(spec), tmp_path / "disk", tmp_path / "kept", *sizes]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    ended = subprocess.run(
        [*namespace, sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.partition("TOLD")[2])
    assert [entry["size"] for entry in told] == sizes
    for entry in told:
        assert "the disk is full: " in entry["message"], entry
        assert f"{tmp_path / 'disk' / 'run'}" in entry["message"]
        assert " or more and there is room for " in entry["message"]
        assert "make room" in entry["message"]
        assert (entry["damage"], entry["left"], entry["artifact"]) == ([], [], False), entry
    assert [] in [entry["steps"] for entry in told]
    assert [2] in [entry["steps"] for entry in told]
    assert told[-1]["steps"][0] == 2
    # With room made, the last of them goes on.
    kept = lab.run(tmp_path / "kept")
    assert kept.losses("tune") == whole.losses("tune")
