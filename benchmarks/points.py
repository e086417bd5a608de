"""Points: the figures that a measurement yields, and the file that keeps them."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from encoder.common.atomic_file import replacing

DATA = Path(__file__).parent / "data"
"""Folder of all measured figures."""
CLIPS = {
    "bunny": (320, 180),
    "carphone": (176, 144),
    "nasa": (320, 180),
    "cockatoo": (320, 180),
}
"""Width and height of each clip. Bunny is the bundled sample; others need a source."""
FILE_BYTES = {"bunny": 55_000, "carphone": 28_000}
"""Size that all fits to a clip are steered to."""
MEASURED_FRAMES = 250
"""Number of frames of a clip that are measured, from its start."""

Point = dict[str, Any]
"""Figures by name."""


def load_points(folder: Path = DATA) -> list[Point]:
    """Return all points that have been measured so far."""
    path = _path(folder)
    return json.loads(path.read_text()) if path.exists() else []


def record(new: Iterable[Point], key: Point, folder: Path = DATA) -> Iterator[Point]:
    """Write points with a key in place of the older points with this key; yield each of them."""
    kept = [point for point in load_points(folder) if not key.items() <= point.items()]
    for point in new:
        kept.append(key | point)
        with replacing(_path(folder)) as part:
            part.write_text(json.dumps(kept, indent=1) + "\n")
        yield kept[-1]


def _path(folder: Path) -> Path:
    return folder / "results.json"
