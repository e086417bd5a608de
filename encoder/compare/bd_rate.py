"""Bjontegaard's difference between two rate-distortion curves."""

from collections.abc import Sequence
from math import nan
from typing import cast

import bjontegaard

Curve = Sequence[tuple[float, float]]
"""Points of rate and quality."""
MIN_POINTS = 3
"""Fewest points of a curve that says something."""
MIN_OVERLAP = 0.25
"""Smallest range of qualities that both curves must have, as a share of the narrower one's."""


def bd_rate(anchor: Curve, test: Curve) -> float:
    """Return how many more bytes a curve takes than an anchor at equal quality, in percent (Akima interpolation).

    Points that a smaller file is as good as are left out. It is taken over the qualities that both curves have, and no number
    where these are few, or a curve has under three points.
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
    """Return the range of qualities that two curves have in common, as a share of the narrower one's."""
    ranges = [
        (min(qualities), max(qualities))
        for qualities in ([quality for _, quality in curve] for curve in (a, b))
    ]
    common = min(top for _, top in ranges) - max(bottom for bottom, _ in ranges)
    return common / min(top - bottom for bottom, top in ranges)
