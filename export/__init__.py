"""Turn a clip into ONNX graphs and TensorRT engines, and run them.

`open_engine` is the Python interface. The package imports no torch.
"""

from typing import TYPE_CHECKING

# The import of `encoder` sets a variable that ONNX Runtime reads when it is imported.
from encoder.common.lazy import lazy_parts

if TYPE_CHECKING:
    from export.engines.base import Engine as Engine
    from export.engines.registry import open_engine as open_engine

__all__ = ["Engine", "open_engine"]

__getattr__ = lazy_parts(
    __name__,
    {
        "open_engine": ("export.engines.registry", "open_engine"),
        "Engine": ("export.engines.base", "Engine"),
    },
)
