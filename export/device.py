"""What the NVIDIA driver says of this machine, without a CUDA toolkit."""

import ctypes

CUDA_SUCCESS = 0
MAX_NAME = 256


def gpu_names() -> list[str]:
    """Return the names of the NVIDIA GPUs that can be used; none without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, name = ctypes.c_int(), ctypes.create_string_buffer(MAX_NAME)
    if driver.cuInit(0) != CUDA_SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != CUDA_SUCCESS:
        return []
    names: list[str] = []
    for index in range(count.value):
        driver.cuDeviceGetName(name, MAX_NAME, index)
        names.append(name.value.decode(errors="replace"))
    return names
