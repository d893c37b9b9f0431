"""N21: what the benchmarks in `benchmarks/` say of a difference that cannot be measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "processes.py"


@pytest.fixture(scope="module")
def processes() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_processes", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_N21_a_difference_below_the_resolution_is_said_to_be_so(processes: Any) -> None:
    told = [processes.shown(value, 0.05) for value in (-0.008, 0.0, 0.049, 0.05, 7.073)]
    assert told == ["< 0.05", "< 0.05", "< 0.05", "0.050", "7.073"]
    assert [processes.shown(value, 10, 0) for value in (3, 10)] == ["< 10", "10"]


def test_N21_a_ratio_claims_no_more_than_was_measured(processes: Any) -> None:
    found = processes.times([7.07, 7.0, 7.1], [-0.008, 0.001, 0.02], 0.05)
    assert str(found) == "more than 141 times"
    assert found.values == pytest.approx((140, 141.4, 142))
    assert str(processes.times([7.0, 7.0, 7.0], [0.07, 0.07, 0.07], 0.05)) == "100 times"


def test_N21_the_resolution_is_the_spread_of_what_is_subtracted(processes: Any) -> None:
    quiet = [processes.Cost(1.0, 1.0, 50.0)] * 3
    noisy = [processes.Cost(1.0, cpu, 50.0) for cpu in (1.0, 1.3, 1.1)]
    assert processes.resolution(quiet, "cpu") == processes.LEAST.cpu
    assert processes.resolution(noisy, "cpu") == pytest.approx(0.3)
