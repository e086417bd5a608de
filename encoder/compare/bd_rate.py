"""Bjontegaard's rate difference (BD-rate) between two rate-distortion curves."""

from collections.abc import Sequence
from math import nan
from typing import cast

import bjontegaard

Curve = Sequence[tuple[float, float]]
"""Points of rate and quality."""
MIN_POINTS = 3
"""Smallest number of points of a meaningful curve."""
MIN_OVERLAP = 0.25
"""Smallest common range of qualities, as a share of the narrower curve's range."""


def bd_rate(anchor: Curve, test: Curve) -> float:
    """Return the extra bytes of a curve against an anchor at equal quality, in percent.

    The curves are interpolated (Akima) over their common range of qualities. Points are left out if
    a smaller file is at least as good. The result is NaN if the common range is small, or if a
    curve has under three points.
    """
    curves = [_rising(curve) for curve in (anchor, test)]
    if min(map(len, curves)) < MIN_POINTS or _overlap(*curves) < MIN_OVERLAP:
        return nan
    columns = [[list(column) for column in zip(*curve, strict=True)] for curve in curves]
    (anchor_rates, anchor_qualities), (test_rates, test_qualities) = columns
    rate = bjontegaard.bd_rate(
        anchor_rates,
        anchor_qualities,
        test_rates,
        test_qualities,
        method="akima",
        require_matching_points=False,
        min_overlap=0,
    )
    return cast(float, rate)


def _rising(curve: Curve) -> list[tuple[float, float]]:
    kept: list[tuple[float, float]] = []
    for rate, quality in sorted(curve):
        if not kept or quality > kept[-1][1]:
            kept.append((rate, quality))
    return kept


def _overlap(a: Curve, b: Curve) -> float:
    """Return the common range of two curves' qualities, as a share of the narrower range."""
    ranges = [
        (min(qualities), max(qualities))
        for qualities in ([quality for _, quality in curve] for curve in (a, b))
    ]
    common = min(top for _, top in ranges) - max(bottom for bottom, _ in ranges)
    return common / min(top - bottom for bottom, top in ranges)
