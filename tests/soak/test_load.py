"""Many viewers at once, in a process of their own; what they cost the server is what its process takes, beside decoding."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = [pytest.mark.alone, pytest.mark.soak]

SUPPORT = Path(__file__).parents[1] / "support"
SECONDS = float(os.environ.get("LOAD_SECONDS", "10"))


@contextmanager
def sending(width, height):
    """Start a sender; give its address and the number of its process."""
    command = [
        sys.executable,
        SUPPORT / "sender.py",
        "--width",
        str(width),
        "--height",
        str(height),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()


def watch(url, viewers, codec, pid):
    """Return what viewers received, and the share of a core that the server took meanwhile."""
    command = [
        sys.executable,
        SUPPORT / "load.py",
        url,
        "--viewers",
        str(viewers),
        "--seconds",
        str(SECONDS),
        "--codec",
        codec,
    ]
    with subprocess.Popen(
        [*command, "--pid", str(pid)], stdout=subprocess.PIPE, text=True
    ) as process:
        found = json.loads(process.communicate(timeout=SECONDS + 120)[0])
    print(
        viewers,
        codec,
        {
            key: found[key]
            for key in ("fps", "sender_cpu", "cpu", "join_seconds", "longest_gap", "plis", "lost")
        },
    )
    return found


@pytest.mark.parametrize(
    ("width", "height", "viewers", "codec", "most"),
    [(640, 360, 64, "H264", 0.6), (1280, 720, 4, "H264", 0.4), (640, 360, 4, "VP8", 0.6)],
)
def test_every_viewer_receives_every_frame_for_little(width, height, viewers, codec, most):
    with sending(width, height) as (url, pid):
        found = watch(url, viewers, codec, pid)
    assert found["fps"]["min"] >= 29
    assert found["sender_cpu"] <= most
    assert found["plis"] == 0
