"""The compiled library in this process: whether it is there, and how it is called."""

import ctypes
import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

from encoder.kernels.library import load

logger = logging.getLogger(__name__)

_is_off = ContextVar("is_off", default=False)


@cache
def library() -> ctypes.CDLL | None:
    """Return the operators' library, or None where there is none."""
    found = load(torch.backends.cpu.get_cpu_capability())
    if found is None:
        logger.info("no kernels were compiled for this CPU: fits of `fast` are slower")
    return found


@contextmanager
def off() -> Generator[None]:
    """Let torch's operators do all work for a while, to compare both and to count arithmetic."""
    token = _is_off.set(True)
    try:
        yield
    finally:
        _is_off.reset(token)


def are_for(*tensors: Tensor) -> bool:
    """Return whether the operators take these tensors: of float32, on a CPU, and not traced."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")  # it would change the tensors in between
        and not _is_off.get()
        and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)
        and library() is not None
    )


def integers(names: str) -> list[tuple[str, type]]:
    """Return the fields of a struct that are integers, by their names."""
    return [(name, ctypes.c_int32) for name in names.split()]


def function(name: str) -> Any:
    """Return a function of the library, which must be there."""
    return getattr(library(), name)


def call(name: str, shape: ctypes.Structure, *tensors: Tensor) -> None:
    """Call a function of a struct and tensors; raises MemoryError."""
    if function(name)(ctypes.byref(shape), *map(pointer, tensors)):
        raise MemoryError


def pointer(x: Tensor) -> ctypes.c_void_p:
    """Return the address of a tensor's values."""
    return ctypes.c_void_p(x.data_ptr())
