"""The benchmarks' material, by name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def _material() -> Any:
    name = "lensmith_benchmark_material"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("material.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def material() -> Callable[[str], Any]:
    """Files, right answers and judge of a benchmark, see `material.Material`."""

    def of(name: str) -> Any:
        return _material().MATERIAL[name]()

    return of
