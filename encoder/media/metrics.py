"""How near a picture is to another."""

from math import log10

import numpy as np
from numpy.typing import NDArray

MAX_PSNR_DB = 100.0
"""Reported for a picture without any error."""


def psnr_db(
    a: NDArray[np.uint8] | NDArray[np.float64], b: NDArray[np.uint8] | NDArray[np.float64]
) -> float:
    """Return the peak signal-to-noise ratio of two pictures of the same shape, of values in 0..255."""
    error = np.mean(np.square(a.astype(np.float64) - b))
    return min(10 * log10(255**2 / error), MAX_PSNR_DB) if error else MAX_PSNR_DB
