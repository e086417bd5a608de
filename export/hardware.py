"""Names of this machine's processors and libraries."""

import ctypes
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("onnxruntime-gpu", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx-cu13")
CPU_INFO = Path("/proc/cpuinfo")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8")
"""Instruction sets that speed up networks."""


def describe() -> str:
    """Return the names of the processors and libraries, which determine speeds, in one line."""
    devices = [f"{core_count()} cores of {_cpu_name()}", *gpu_names()]
    return ", ".join(
        [*devices, *(f"{name} {found}" for name in LIBRARIES if (found := _version(name)))]
    )


def core_count() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    """Return the processor's name and its relevant instruction sets.

    Virtual machines of the same name differ in their instruction sets.
    """
    found: dict[str, str] = {}
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text().splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    wide = [flag for flag in found.get("flags", "").split() if flag in FLAGS]
    return " ".join(
        [found.get("model name") or platform.machine(), *([f"({' '.join(wide)})"] if wide else [])]
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


CUDA_SUCCESS = 0
MAX_NAME = 256


def gpu_names() -> list[str]:
    """Return the names of the NVIDIA GPUs that can be used; none without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    name = ctypes.create_string_buffer(MAX_NAME)
    if (
        driver.cuInit(0) != CUDA_SUCCESS
        or driver.cuDeviceGetCount(ctypes.byref(count)) != CUDA_SUCCESS
    ):
        return []
    names: list[str] = []
    for index in range(count.value):
        driver.cuDeviceGetName(name, MAX_NAME, index)
        names.append(name.value.decode(errors="replace"))
    return names
