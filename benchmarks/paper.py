"""Comparison of NeRV++'s paper with a report of `compare` on Bunny.

The paper's HNeRV is of frames of 1280x640, ours of 1280x720.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from encoder.compare.compare import RESULTS

PUBLISHED = {("nerv++", "psnr_db"): -27.98, ("nerv++", "ms_ssim"): -29.99}
"""BD-rate against NeRV on Bunny in percent (arXiv 2402.18305, table 2)."""
ANCHOR = "nerv"
QUALITIES = ("psnr_db", "ms_ssim")
POINT_COLUMNS = ("system", "rate", "bits_per_pixel", *QUALITIES, "encode_seconds")
"""Figures of a point that are shown."""


def bd_rates(folder: Path) -> Iterator[dict[str, object]]:
    """Yield the BD-rate of each network against NeRV: the paper's and the report's."""
    rates = json.loads((folder / RESULTS).read_text())["bd_rate"]
    for quality in QUALITIES:
        for system, row in rates[quality].items():
            if system == ANCHOR:
                continue
            rate = row.get(ANCHOR)
            yield {
                "BD-rate against NeRV": system,
                "at equal": quality,
                "paper in %": PUBLISHED.get((system, quality), ""),
                "here in %": "under three points, or too little overlap" if rate is None else rate,
            }
