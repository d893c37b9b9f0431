"""How far a score may be off: bootstrap over the units that could have been drawn otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from lensmith.interfaces.benchmark import Quantity

_EQUAL = 1e-9
"""Draws that differ by less of the scale are one number."""
_CELLS = 4_000_000
"""Numbers that one block of resamples may take."""


def interval(
    quantity: Quantity, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile bootstrap interval (Efron 1979): units are drawn with replacement, as many as there are.

    Args:
        quantity: the number.
        resamples: draws.
        level: mass between the two ends.
        seed: of the draws, so that a report can be repeated.

    Returns:
        Low and high end; None where there are fewer than two units, the number is not defined for a draw, or all draws
        give one number that has no limits. Within limits such a number gets Wilson's interval (1927) of a share of as
        many units: that all of ten questions were right does not make the eleventh certain.
    """
    rows = np.asarray(quantity.rows, dtype=np.float64)
    if len(rows) < 2:
        return None
    random = np.random.default_rng(seed)
    strata = np.asarray(quantity.strata if len(quantity.strata) else np.zeros(len(rows)))
    # Units that add the same are drawn together: their number is what matters, and there are few kinds of them.
    kinds = [np.unique(rows[strata == stratum], axis=0, return_counts=True) for stratum in np.unique(strata)]
    values = []
    block = max(1, _CELLS // max(len(kind) for kind, _ in kinds))
    for start in range(0, resamples, block):
        drawn_now = min(block, resamples - start)
        sums = np.zeros((drawn_now, rows.shape[1]))
        for kind, counts in kinds:
            sums += random.multinomial(counts.sum(), counts / counts.sum(), size=drawn_now) @ kind
        with np.errstate(divide="ignore", invalid="ignore"):
            values.append(np.asarray(quantity.combine(*sums.T), dtype=np.float64))
    drawn = np.concatenate(values)
    if not np.isfinite(drawn).all():
        return None
    low, high = (float(end) for end in np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    if quantity.limits is None:
        return (low, high) if high > low else None
    least, most = quantity.limits
    if high - low <= _EQUAL * (most - least):
        share = min(max((low - least) / (most - least), 0.0), 1.0)
        low, high = (least + (most - least) * end for end in wilson(share, len(rows), level))
    return max(low, least), min(high, most)


def wilson(share: float, units: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share, which is no point at 0 and 1.

    Args:
        share: from 0 to 1.
        units: how many it is of.
        level: mass between the two ends.
    """
    squared = NormalDist().inv_cdf((1 + level) / 2) ** 2
    middle = (share + squared / (2 * units)) / (1 + squared / units)
    half = (squared * (share * (1 - share) / units + squared / (4 * units**2))) ** 0.5 / (1 + squared / units)
    low = 0.0 if share == 0 else max(middle - half, 0.0)
    high = 1.0 if share == 1 else min(middle + half, 1.0)
    return low, high


def intervals(quantities: Sequence[Quantity], **options: Any) -> dict[str, list[float]]:
    """`interval` of each quantity that has one, by name."""
    found = {quantity.name: interval(quantity, **options) for quantity in quantities}
    return {name: [round(end, 4) for end in ends] for name, ends in found.items() if ends is not None}


def mean(name: str, values: Sequence[float], scale: float = 100.0, *, bounded: bool = True) -> Quantity:
    """The mean of a number for each unit, times `scale`; `bounded` where each number can be from 0 to 1 only."""
    limits = (0.0, scale) if bounded and all(0 <= value <= 1 for value in values) else None
    return Quantity(name, [(value, 1.0) for value in values], lambda total, count: scale * total / count, limits=limits)
