"""A Ray cluster of several machines, which are network namespaces of this one."""

import shlex
import subprocess
import sys
import time

import pytest
from helpers import moving_square, run
from machines import ABLE, machines, start_ray
from waiting import wait_for

pytestmark = [
    pytest.mark.alone,
    pytest.mark.soak,
    pytest.mark.skipif(not ABLE, reason="namespaces take root and the command ip"),
]

FRAMES = 5000
SEGMENTS = 100
FIT = ["fit", "video.mp4", "--resize", "source", "--size", "XS", "--threads", "1", "--epochs", "1"]
FIT += ["--segment-frames", str(FRAMES // SEGMENTS), "--key-interval", "1"]
SOME = SEGMENTS // 4
"""Number of finished segments before a machine fails."""


@pytest.fixture(scope="module")
def network():
    with machines(3) as made:
        yield made


@pytest.fixture
def film(write_video):
    """Return the folder of a film, and of the clip that one machine makes of it."""
    folder = write_video(moving_square(FRAMES, 32, 48)).parent
    done = run(shlex.join(["encoder", *FIT, "-o", "alone.nerv"]), folder)
    assert done.returncode == 0, done.stderr
    return folder


def begin(head, address, folder, *options, stderr=subprocess.PIPE):
    """Begin to fit on the cluster."""
    command = [sys.executable, "-m", "encoder", *FIT, "--cluster", address, *options]
    return head.start([*command, "-o", "together.nerv"], cwd=folder, stderr=stderr, text=True)


def finished(folder):
    """Return the files of the segments that are finished, and when they were written."""
    groups = (folder / ".together.nerv.unfinished").glob("group-*.pt")
    return {path.name: path.stat().st_mtime_ns for path in groups}


def assert_same(folder):
    assert (folder / "together.nerv").read_bytes() == (folder / "alone.nerv").read_bytes()


def test_a_cluster_makes_the_same_bytes_though_a_machine_fails(network, film):
    head, first, second = network
    began = time.monotonic()
    fit = begin(head, start_ray(*network), film)
    wait_for(lambda: len(finished(film)) >= SOME, 300)
    assert len(second.processes) > 1
    second.stop()
    _, told = fit.communicate(timeout=600)
    assert fit.returncode == 0, told
    assert "another one goes on" in told
    assert_same(film)
    print(f"{FRAMES} frames in {time.monotonic() - began:.0f} s")
    for machine in (first, head):
        machine.stop()


def test_a_run_goes_on_after_the_head_has_failed(network, film):
    head, *_ = network
    fit = begin(head, start_ray(*network), film)
    wait_for(lambda: len(finished(film)) >= SOME, 300)
    for machine in network:  # the head first; without it, the others are of no use
        machine.stop()
    fit.communicate(timeout=10)
    before = finished(film)
    assert SOME <= len(before) < SEGMENTS
    told = (film / "told").open("w+")  # a pipe that nobody reads would stop the fit
    fit = begin(head, start_ray(*network), film, "--resume", stderr=told)
    # At most the segments under way are lost, one for each worker.
    again = set()
    while fit.poll() is None:
        now = finished(film)
        again |= {name for name in before if now.get(name, before[name]) != before[name]}
        time.sleep(0.05)
    told.close()
    assert fit.returncode == 0, (film / "told").read_text()
    assert len(again) <= 0.1 * SEGMENTS
    assert_same(film)
    for machine in reversed(network):
        machine.stop()
