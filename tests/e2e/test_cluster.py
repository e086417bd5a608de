"""A Ray cluster, of one machine."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import moving_square, run

from encoder.cli.main import main

START = """
import ray, sys
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
FIT = [
    "-m",
    "encoder",
    "fit",
    "video.mp4",
    "--size",
    "XS",
    "--threads",
    "1",
    "--segment-frames",
    "4",
    "--key-interval",
    "1",
]


@pytest.fixture(scope="module")
def cluster():
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_AUTH_MODE", "disabled")  # its token would have to reach this process
    with subprocess.Popen(
        [sys.executable, "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as head:
        yield head.stdout.readline().strip()
        head.stdin.close()
    patch.undo()


def actors():
    """Return the processes that fit, by Ray's name for them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_Actor.fit"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.soak
def test_cluster_makes_the_same_bytes_though_a_worker_dies(cluster, write_video):
    folder = write_video(moving_square(16, 32, 48)).parent
    assert run(shlex.join([*FIT[1:], "--epochs", "60", "-o", "alone.nerv"]), folder).returncode == 0
    command = [sys.executable, *FIT, "--epochs", "60", "--cluster", cluster, "-o", "together.nerv"]
    fit = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if found := actors():
            break
        time.sleep(0.1)
    os.kill(found[0], signal.SIGKILL)
    _, errors = fit.communicate(timeout=200)
    assert fit.returncode == 0, errors
    assert "a worker was lost" in errors
    assert (folder / "together.nerv").read_bytes() == (folder / "alone.nerv").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == [
        "alone.nerv",
        "together.nerv",
        "video.mp4",
    ]
    assert list(Path().glob(".*.unfinished")) == []  # where the workers are


@pytest.mark.soak
def test_no_more_workers_than_there_is_room_for(cluster, write_video):
    """They would wait for ever, and take their shares of the time."""
    folder = write_video(moving_square(12, 32, 48)).parent
    command = [
        sys.executable,
        *FIT,
        "--epochs",
        "1",
        "--cluster",
        cluster,
        "--workers",
        "3",
        "-o",
        "clip.nerv",
    ]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=200
    )
    assert "2 workers fit instead of 3" in done.stderr


@pytest.mark.soak
def test_no_machine_with_so_many_cores(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--cluster", cluster, "--threads", "3"]) == 2
    assert "no machine of the cluster has 3 cores: use fewer --threads" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_no_cluster(tmp_path, monkeypatch, capsys, address):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--cluster", address]) == 2
    assert capsys.readouterr().err.startswith(f"error: no Ray cluster at {address}")


@pytest.mark.soak
def test_no_gpu_in_the_cluster(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--cluster", cluster, "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "error: no GPU in the cluster: use --device cpu\n"


def test_ray_is_not_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "encoder.jobs.ray_workers", raising=False)
    assert main(["fit", "--cluster", "auto"]) == 2
    assert (
        capsys.readouterr().err == "error: --cluster needs Ray: pip install 'nervcast[cluster]'\n"
    )
