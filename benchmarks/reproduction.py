"""Print what NeRV++'s paper says of Bunny beside what was measured: `python benchmarks/reproduction.py REPORT_FOLDER`.

The paper's HNeRV is of frames of 1280x640, ours of 1280x720.
"""

import json
import sys
from pathlib import Path

from encoder.common.console import show_table
from encoder.compare.compare import RESULTS, read_results

PUBLISHED = {("nerv++", "psnr_db"): -27.98, ("nerv++", "ms_ssim"): -29.99}
"""BD-rate against NeRV on Bunny in percent (arXiv 2402.18305, table 2)."""
ANCHOR = "nerv"


def main() -> None:
    """Print the points, and the BD-rates of all networks against NeRV."""
    folder = Path(sys.argv[1])
    settings, points = read_results(folder)
    print(", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in settings.items()))
    columns = ("system", "rate", "bits_per_pixel", "psnr_db", "ms_ssim", "encode_seconds")
    show_table(
        [{name: getattr(point, name) for name in columns} for point in points], as_json=False
    )
    rates = json.loads((folder / RESULTS).read_text())["bd_rate"]
    rows: list[dict[str, object]] = []
    for quality in ("psnr_db", "ms_ssim"):
        for system, row in rates[quality].items():
            if system != ANCHOR:
                paper, rate = PUBLISHED.get((system, quality), ""), row.get(ANCHOR)
                here = "under three points, or too little overlap" if rate is None else rate
                rows.append(
                    {
                        "BD-rate against NeRV": system,
                        "at equal": quality,
                        "paper in %": paper,
                        "here in %": here,
                    }
                )
    show_table(rows, as_json=False)


if __name__ == "__main__":
    main()
