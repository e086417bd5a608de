"""Metrics of the difference between two pictures."""

from math import log10

import numpy as np
from numpy.typing import NDArray

MAX_PSNR_DB = 100.0
"""PSNR of pictures without any difference."""


def psnr_db(
    a: NDArray[np.uint8] | NDArray[np.float64], b: NDArray[np.uint8] | NDArray[np.float64]
) -> float:
    """Return the PSNR, in dB, of two pictures of the same shape in 0..255."""
    error = np.mean(np.square(a.astype(np.float64) - b))
    return min(10 * log10(255**2 / error), MAX_PSNR_DB) if error else MAX_PSNR_DB
