import sys

import pytest
from fake_tensorrt import FakeCuda


@pytest.fixture
def cuda(monkeypatch):
    """A stand-in for CUDA, among the modules."""
    runtime = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
    return runtime
