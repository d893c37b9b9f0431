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
    assert intervals([ratio, mean("one", [1.0]), mean("marks", [7.0, 7.0], 1.0)]) == {}


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([1.0] * 2, 34.24, 100),
        ([1.0] * 10, 72.25, 100),
        ([0.0] * 10, 0, 27.75),
        ([0.0] * 1000, 0, 0.38),
        ([0.5] * 10, 23.66, 76.34),
    ],
)
def test_N8_no_interval_claims_certainty(values: list[float], low: float, high: float) -> None:
    assert interval(mean("share", values)) == pytest.approx((low, high), abs=0.01)


def test_N8_other_numbers_with_limits_are_no_points_either() -> None:
    right = Quantity("total", [(1.0, 1.0)] * 20, lambda up, count: 2000 * up / count, limits=(0.0, 2000.0))
    assert interval(right) == pytest.approx((2000 * 20 / (20 + 1.96**2), 2000), abs=1)
    wide = Quantity("total", [(0.0, 1.0), (1.0, 1.0)], lambda up, count: 300 * up / count - 100, limits=(0.0, 100.0))
    assert interval(wide) == (0, 100)
