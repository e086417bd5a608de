"""Memory that fits free is used again, without the system's help."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource
from encoder.common.memory import keep_freed_memory
is_kept = KEEP and keep_freed_memory()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    [bytes(b"x") * (8 << 20) for _ in range(4)]
print(json.dumps([is_kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults]))
"""


def faults(*, keep):
    command = [sys.executable, "-c", f"KEEP = {keep}" + SCRIPT]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
def test_large_blocks_are_used_again():
    is_kept, count = faults(keep=True)
    assert is_kept
    assert count < 10_000  # 8,192 pages, once
    assert faults(keep=False)[1] > 100_000
