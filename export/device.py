"""What the NVIDIA driver says of this machine, without a CUDA toolkit."""

import ctypes

CUDA_SUCCESS = 0


def gpu_count() -> int:
    """Return the number of NVIDIA GPUs that can be used; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) != CUDA_SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != CUDA_SUCCESS:
        return 0
    return count.value
