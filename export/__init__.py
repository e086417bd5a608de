"""Turn a clip into ONNX graphs and TensorRT engines, and run them.

`open_engine` is the Python interface. The package imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# It sets an environment variable that must be there before ONNX Runtime is imported.
import encoder as encoder

if TYPE_CHECKING:
    from export.engines.base import Engine as Engine
    from export.engines.registry import open_engine as open_engine

__all__ = ["Engine", "open_engine"]

_PLACES = {
    "open_engine": ("export.engines.registry", "open_engine"),
    "Engine": ("export.engines.base", "Engine"),
}


def __getattr__(name: str) -> Any:
    """Return a part of the interface, imported when it is first asked for (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
