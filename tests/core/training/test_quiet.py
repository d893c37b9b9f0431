"""What a user of training sees is ours: libraries' words to each other's authors are left out unless asked for."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith.io import chatter

_OURS = re.compile(r"stage tune: |  (trains|rows|computes) |tune: step ")


def three(spec: dict[str, Any]) -> dict[str, Any]:
    spec = copy.deepcopy(spec)
    del spec["stages"]["align"]
    stage = spec["stages"]["tune"]
    stage |= {"tuner": "full", "precision": "bf16", "deepspeed": {"zero": 3}, "activation_checkpointing": True}
    stage["max_steps"] = 2
    return spec


@pytest.mark.parametrize("processes", ["1", "2"])
def test_N12_training_prints_its_own_lines_alone(
    lab: Any, spec: dict[str, Any], write_spec: Callable[[dict[str, Any]], Path], tmp_path: Path, processes: str
) -> None:
    command = ("train", write_spec(three(spec)), "--output", tmp_path / "run", "--nproc", processes)
    code, out, told = lab.finish(lab.command(*command), timeout=400)
    assert code == 0, told
    assert out.split() == [str(tmp_path / "run" / "tune")]
    assert [line for line in told.splitlines() if line and not _OURS.match(line)] == []


def _filtered(module: str, category: type[Warning], monkeypatch: pytest.MonkeyPatch, verbose: str) -> list[str]:
    monkeypatch.setenv(chatter.VERBOSE, verbose)
    chatter.hush.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chatter.hush()
        warnings.warn_explicit("said", category, f"{module}.py", 1, module=module)
    chatter.hush.cache_clear()
    return [str(entry.message) for entry in caught]


@pytest.mark.parametrize(
    ("module", "category", "heard"),
    [
        ("torch.distributed.c10d_logger", FutureWarning, False),
        ("deepspeed.runtime.engine", DeprecationWarning, False),
        ("_distutils_hack", UserWarning, False),
        ("torch.optim.lr_scheduler", UserWarning, True),
        ("lensmith.assembly", UserWarning, True),
        ("lensmith", DeprecationWarning, True),
        ("torchish_plugin", FutureWarning, True),
    ],
)
def test_N12_only_words_between_libraries_are_left_out(
    module: str, category: type[Warning], heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bool(_filtered(module, category, monkeypatch, "0")) is heard
    assert _filtered(module, category, monkeypatch, "1") == ["said"]
