"""Fit a neural network to a video and write it as a small bitstream.

`fit`, `open` and `evaluate` are the Python interface. The package itself imports no torch.
"""

import os
from typing import TYPE_CHECKING

from encoder.common.lazy import lazy_parts

if TYPE_CHECKING:
    from encoder.api import evaluate as evaluate
    from encoder.api import fit as fit
    from encoder.clip import Clip as Clip
    from encoder.clip import open_clip as open  # noqa: A004 (encoder.open)
    from encoder.common.errors import CodecError as CodecError
    from encoder.config import FitConfig as FitConfig

__all__ = ["Clip", "CodecError", "FitConfig", "evaluate", "fit", "open"]

# ONNX Runtime sends telemetry to its maker unless this is set before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# With it, GNU's OpenMP waits for threads some microseconds before it lets others have the core.
# By default it waits for milliseconds: two fits on the same cores are then up to 25 times as slow.
# OpenMP reads it when torch is imported, so it has no effect after that.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ["GOMP_SPINCOUNT"] = "2000"

__getattr__ = lazy_parts(
    __name__,
    {
        "fit": ("encoder.api", "fit"),
        "evaluate": ("encoder.api", "evaluate"),
        "open": ("encoder.clip", "open_clip"),
        "Clip": ("encoder.clip", "Clip"),
        "CodecError": ("encoder.common.errors", "CodecError"),
        "FitConfig": ("encoder.config", "FitConfig"),
    },
)
