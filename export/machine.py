"""What this machine is: what its processors and libraries are called."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export.device import gpu_names

LIBRARIES = ("onnxruntime-gpu", "onnxruntime", "openvino", "tensorrt")
CPU_INFO = Path("/proc/cpuinfo")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8")
"""Instructions that networks gain by."""


def describe() -> str:
    """Return the names of the processors and libraries, in one line: what speeds depend on."""
    devices = [f"{core_count()} cores of {_cpu_name()}", *gpu_names()]
    return ", ".join([*devices, *(f"{name} {found}" for name in LIBRARIES if (found := _version(name)))])


def core_count() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    """Return the processor's name with what it can compute with: virtual machines of one name differ in that."""
    found: dict[str, str] = {}
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text().splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    wide = [flag for flag in found.get("flags", "").split() if flag in FLAGS]
    return " ".join([found.get("model name") or platform.machine(), *([f"({' '.join(wide)})"] if wide else [])])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
