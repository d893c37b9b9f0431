"""Bootstrap intervals against what is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from lensmith.evaluation.statistics import interval, intervals, mean
from lensmith.interfaces.benchmark import Quantity


def test_a_share_has_the_interval_of_its_normal_limit() -> None:
    values = [1.0] * 300 + [0.0] * 700
    low, high = interval(mean("share", values), resamples=4000) or (0, 0)
    half = 1.96 * 100 * np.sqrt(0.3 * 0.7 / 1000)
    assert (low, high) == pytest.approx((30 - half, 30 + half), abs=0.25)


def test_a_seed_repeats_the_draws() -> None:
    quantity = mean("share", [number / 7 for number in range(100)])
    assert interval(quantity, seed=3) == interval(quantity, seed=3)
    assert interval(quantity, seed=3) != interval(quantity, seed=4)


def test_units_stay_within_their_stratum() -> None:
    def spread(strata: list[int]) -> float:
        quantity = Quantity("sum", [(1.0,)] * 50 + [(0.0,)] * 50, lambda total: total, strata)
        low, high = interval(quantity) or (0, 0)
        return high - low

    assert spread([0] * 50 + [1] * 50) == 0  # each half is constant
    assert spread([]) > 10


def test_what_is_not_defined_for_every_draw_has_no_interval() -> None:
    ratio = Quantity("ratio", [(1.0, 0.0), (1.0, 1.0)], lambda up, down: up / down)
    assert interval(ratio) is None
    assert intervals([ratio, mean("one", [1.0]), mean("two", [1.0, 1.0])]) == {"two": [100.0, 100.0]}
