"""The fused loss, run for real: Triton's interpreter executes liger-kernel's kernel on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lensmith import fused

CASES = Path(__file__).with_name("fused_loss_cases.py")


def test_in_tritons_interpreter() -> None:
    """In a process of its own, since Triton reads the variable when it is imported."""
    pytest.importorskip("liger_kernel", reason="liger-kernel is not installed: pip install 'lensmith[liger]'")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(CASES)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_not_where_it_would_be_wrong_or_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("liger_kernel")
    layer, states = nn.Linear(4, 8, bias=False), torch.randn(3, 4, requires_grad=True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not fused.usable(layer, states)  # no GPU
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert fused.usable(layer, states)
    assert not fused.usable(layer, states[:0])
    assert not fused.usable(layer, states.detach())  # it would leave the layer without gradients
    assert not fused.usable(layer.half(), states.half())  # its gradients are not scaled
    assert not fused.usable(layer.bfloat16(), states)
    assert fused.usable(layer, states.bfloat16())
    layer.weight.ds_id = 1  # type: ignore[attr-defined]  # as DeepSpeed marks what ZeRO-3 shards
    assert not fused.usable(layer, states.bfloat16())


def test_not_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not fused.fits(torch.device("cpu"), torch.float32)
