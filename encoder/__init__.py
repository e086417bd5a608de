"""Fit a neural network to a video and write it as a small bitstream.

`fit`, `open` and `evaluate` are the Python interface. The package itself imports no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_PLACES = {
    "fit": ("encoder.api", "fit"),
    "evaluate": ("encoder.api", "evaluate"),
    "open": ("encoder.clip", "open_clip"),
    "Clip": ("encoder.clip", "Clip"),
    "CodecError": ("encoder.common.errors", "CodecError"),
    "FitConfig": ("encoder.config", "FitConfig"),
}


def __getattr__(name: str) -> Any:
    """Return a part of the interface, imported when it is first asked for (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
