"""The command lines as a user runs them."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import COMMANDS, SAMPLE, moving_square, run
from published import checkpoint

from encoder.codec.clip import Clip
from encoder.codec.coder import HUFFMAN, RANGE
from encoder.config import SIZES
from encoder.presets import PRESETS
from export.engines.registry import ENGINES

ROOT = Path(__file__).parents[2]


def run_process(command, cwd, how=("-m",)):
    return subprocess.run(
        [sys.executable, *how, *shlex.split(command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )


@pytest.fixture
def folder(tiny_file, write_video):
    """A folder with a clip and its source in it, to run commands in."""
    write_video(moving_square(6, 38, 52), "tiny.mp4")
    write_video(moving_square(2, 38, 52), "short.mp4")
    (tiny_file.parent / "empty").mkdir()
    (tiny_file.parent / "empty.mp4").touch()
    (tiny_file.parent / "plain").touch()
    (tiny_file.parent / "text.mp4").write_text("not a video\n" * 10)
    (tiny_file.parent / "damaged.nerv").write_bytes(tiny_file.read_bytes()[:100])
    return tiny_file.parent


LONG = (
    "encoder fit",
    "encoder compare",
    "encoder compress",
    "encoder bench",
    "encoder evaluate",
    "encoder models",
    "encoder import",
    "export bench",
)
"""Commands whose examples take long."""


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, tmp_path):
    done = run_process(f"{command} --help", tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert ("example:\n  python -m " in done.stdout) == (" " in command)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(name, marks=[pytest.mark.soak] if name in LONG else [])
        for name in COMMANDS
        if " " in name and name.split()[1] not in ("serve", "publish")
    ],
)
def test_example_of_the_help_works(command, tmp_path, write_video):
    (tmp_path / "encoder").symlink_to(ROOT / "encoder")
    (tmp_path / "bunny.nerv").write_bytes((ROOT / "player" / "data" / "bunny.nerv").read_bytes())
    if command == "encoder compress":
        write_video(moving_square(60, 90, 160))
        fit = "encoder fit video.mp4 -o bunny.nerv --checkpoint bunny.safetensors --epochs 1"
        assert run(fit, tmp_path).returncode == 0
    example = run_process(f"{command} --help", tmp_path).stdout.split("example:\n  python -m ")[1]
    if command == "encoder import":
        torch.save(checkpoint(), tmp_path / "quant_vid.pth")
    if command == "encoder compare":  # of networks that other tests have traced
        write_video(moving_square(4, 36, 64))
        example = example.replace("encoder compare", "encoder compare video.mp4")
    example = example.replace("--budget 120", "--budget 2").replace(
        "--budget 60 --rates 3", "--epochs 1 --rates 1"
    )
    done = run_process(example, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.alone
def test_help_takes_under_half_a_second(tmp_path):
    for command in ("encoder", "export", "player"):
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            run_process(f"{command} --help", tmp_path)
            seconds.append(time.perf_counter() - start)
        assert min(seconds) < 0.5, command


@pytest.mark.parametrize("package", ["encoder", "export", "player"])
def test_help_loads_no_numpy(package, tmp_path):
    done = run_process("", tmp_path, ["-X", "importtime", "-m", package, "--help"])
    assert done.returncode == 0
    assert "encoder.common.console" in done.stderr
    assert "numpy" not in done.stderr


def test_help_names_the_engines(tmp_path):
    assert all(name in run_process("export bench --help", tmp_path).stdout for name in ENGINES)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("encoder fit nope.mp4", "no such file or folder: nope.mp4"),
        ("encoder fit text.mp4", "cannot read text.mp4 as a video"),
        ("encoder fit empty.mp4", "cannot read empty.mp4 as a video"),
        ("encoder fit empty", "no images in folder empty"),
        ("encoder fit --budget 0", "the budget must be over 0 seconds, got 0"),
        ("encoder fit --epochs 0", "the number of epochs must be at least 1, got 0"),
        ("encoder fit --segment-frames 0", "a segment needs at least 1 frame, got 0"),
        ("encoder fit --preset x", "unknown preset 'x', known are: fast, nerv, e-nerv"),
        ("encoder fit --resize big", "a size is two numbers of 1 to 8192 like 640x360, got 'big'"),
        ("encoder fit -o nowhere/a.nerv", "no such folder: nowhere"),
        ("encoder fit -o empty", "output empty is a folder"),
        ("encoder fit -o /proc/a.nerv", "/proc/"),
        ("encoder fit --budget 1 --epochs 1", "not allowed with argument"),
        ("encoder fit --budget soon", "invalid float value: 'soon'"),
        ("encoder fit --seed 99999999999999999999", "seed must be in 0..9223372036854775807"),
        ("encoder fit --lambda 0", "lambda must be over 0, got 0"),
        ("encoder fit --lambda 1 --bits 8", "not allowed with argument"),
        (
            "encoder fit --bits-per-pixel nan",
            "bits per pixel must be over 0 and at most 1000, got nan",
        ),
        ("encoder fit --file-size big", "a file size is a number of bytes like 200kB, got 'big'"),
        ("encoder fit --psnr 56", "the PSNR must be in 10..55 dB, got 56"),
        ("encoder fit --psnr 32 --file-size 2kB", "not allowed with argument"),
        ("encoder fit --bitrate 0", "a bitrate is a number of bits per second like 500k, got '0'"),
        ("encoder fit --bits 1", "bits must be in 2..12, got 1"),
        ("encoder fit --bits 9 --coder huffman", "the huffman coder takes at most 8 bits"),
        (
            "encoder fit --coder huffman",
            "the huffman coder takes at most 8 bits: give bits as well",
        ),
        ("encoder fit --bits 8 --prune 1", "the share to prune must be in 0..1, got 1"),
        ("encoder fit --prune 0.2", "pruning needs bits"),
        ("encoder fit --size XXL", "invalid choice: 'XXL'"),
        ("encoder fit --mask nope.png", "nope.png"),
        ("encoder models --resize big", "a size is two numbers"),
        ("encoder models --frames 0", "a segment needs at least 1 frame, got 0"),
        ("encoder import nerv a.pth", "invalid choice: 'nerv'"),
        ("encoder import hnerv nope.pth -o a.nerv", "cannot read nope.pth: No such file"),
        ("encoder import hnerv plain -o a.nerv", "plain is no quantized checkpoint of HNeRV"),
        (
            "encoder import hnerv plain --fps 0 -o a.nerv",
            "fps must be over 0 and at most 1000, got 0",
        ),
        ("encoder compare --rates 0", "rates must be in 1..16, got 0"),
        ("encoder compare --presets --codecs", "there is nothing to compare"),
        ("encoder compare --presets x", "unknown preset 'x'"),
        ("encoder compare --codecs x", "unknown codec 'x', known are: x264, x265, svtav1"),
        ("encoder compare --holdout odd --codecs x264", "classic codecs have no frames in between"),
        (
            "encoder compare --holdout odd --presets nirvana",
            "preset nirvana has no frames in between",
        ),
        ("encoder compare --frame 132", "frame must be in 0..131, got 132"),
        (
            "encoder compare --holdout odd --frame 4",
            "frame must be one that is held out, odd and in 1..130, got 4",
        ),
        ("encoder fit --file-size 100", "the file's size must be over"),
        (
            "encoder fit a.mp4 -o empty/../a.mp4",
            "a.mp4 is also another file of this command",
        ),
        (
            "encoder fit -o a.nerv --checkpoint a.nerv",
            "a.nerv is also another file of this command",
        ),
        ("encoder fit --checkpoint nowhere/a.safetensors", "no such folder: nowhere"),
        ("encoder compress nope --bits-per-pixel 1", "cannot read nope"),
        ("encoder compress text.mp4 --bits-per-pixel 1", "text.mp4 is no checkpoint of a fit"),
        (
            "encoder compress text.mp4 --bits-per-pixel 0",
            "bits per pixel must be over 0 and at most 1000, got 0",
        ),
        ("encoder compress text.mp4", "the following arguments are required: --bits-per-pixel"),
        ("encoder fit --bogus", "unrecognized arguments: --bogus"),
        ("encoder info nope.nerv", "cannot read nope.nerv: No such file or directory"),
        ("encoder info text.mp4", "cannot read text.mp4 as a video"),
        ("encoder info .", "no images in folder ."),
        ("encoder info damaged.nerv", "clip ends before its first segment"),
        ("encoder evaluate tiny.nerv nope.mp4", "no such file or folder: nope.mp4"),
        ("encoder", "the following arguments are required: COMMAND"),
        ("export onnx nope.nerv", "cannot read nope.nerv"),
        ("export trt tiny.nerv --builder tensorrt", "TensorRT lacks its packages"),
        ("export trt tiny.nerv --builder x", "invalid choice: 'x'"),
        (
            "export trt tiny.nerv --for sm7",
            "unknown GPU 'sm7', known are: current, sm75, sm80, sm86, sm89, sm120, sm121",
        ),
        ("export trt tiny.nerv --for current", "builds no engine for current: "),
        ("export trt tiny.nerv --max-batch 0", "batch must be in 1..256, got 0"),
        (
            "player decode tiny.nerv out.avi",
            "output must be OUT.mp4, OUT.mkv, OUT.webm, OUT.y4m, FOLDER/ or -, got out.avi",
        ),
        ("player decode tiny.nerv out.mp4 --fps 0", "fps must be over 0"),
        ("player decode tiny.nerv out.mp4 --fps 1/0", "not a rate like 50 or 30000/1001: '1/0'"),
        ("player decode tiny.nerv out.mp4 --fps 1e99999999", "not a rate like 50 or 30000/1001"),
        ("player decode tiny.nerv .", "is not empty"),
        ("player decode tiny.nerv plain", "is a file, not a folder"),
        ("player decode tiny.nerv nowhere/out.mp4", "no such folder: nowhere"),
        ("player decode tiny.nerv out.mp4 --engine x", "unknown engine 'x'"),
        (
            "export onnx tiny.nerv --int8 tiny.mp4 --precision fp16",
            "leave out --precision fp16",
        ),
        ("export onnx tiny.nerv --int8 short.mp4", "the clip has 6 frames, the source 2"),
        ("export onnx tiny.nerv --int8 nope.mp4", "no such file or folder: nope.mp4"),
        ("export bench tiny.nerv --batch 8 0", "batch must be in 1..256, got 0"),
        ("export bench tiny.nerv --engine tensorrt", "TensorRT lacks its packages"),
        ("export bench tiny.nerv --engine x", "unknown engine 'x'"),
        ("export verify nope.nerv", "cannot read nope.nerv"),
        ("export verify tiny.nerv nope.mp4", "no such file or folder: nope.mp4"),
        ("export verify tiny.nerv short.mp4", "the clip has 6 frames, the source 2"),
        ("export verify tiny.nerv --engine tensorrt", "TensorRT lacks its packages"),
        ("player serve tiny.nerv --engine tensorrt", "TensorRT lacks its packages"),
        ("player serve nope.nerv", "cannot read nope.nerv"),
        ("player serve tiny.nerv --host example.org", "host must be an IP address of this machine"),
        ("player serve tiny.nerv --stun example.org", "a STUN server is named like"),
        ("player serve tiny.nerv --port 70000", "port must be in 0..65535, got 70000"),
        (
            "player serve tiny.nerv --host 0.0.0.0",
            "0.0.0.0 can be reached by other machines: give a --token, or --insecure",
        ),
        (
            "player serve tiny.nerv --media-host example.org",
            "host must be an IP address of this machine",
        ),
        (
            "player serve tiny.nerv --token short",
            "a token needs 8 or more printable ASCII characters",
        ),
        ("player serve tiny.nerv --watch-token 12345678", "--watch-token needs --token"),
        (
            "player serve tiny.nerv --allow-origin example.org",
            "an origin is like https://example.org",
        ),
        ("player serve tiny.nerv --cert text.mp4", "--cert and --key go together"),
        ("player serve tiny.nerv --cert text.mp4 --key text.mp4", "are no certificate and its key"),
        ("player serve tiny.nerv --cert nope.pem --key nope.pem", "No such file or directory"),
        (
            "player serve tiny.nerv --turn example.org",
            "a TURN server is named like turn:USER:PASSWORD@example.org:3478",
        ),
        (
            "player serve tiny.nerv --public-ip example.org",
            "the public address must be an IPv4 address",
        ),
        ("player serve tiny.nerv --max-viewers -1", "not a whole number: '-1'"),
        ("player serve tiny.nerv --max-per-address x", "not a whole number: 'x'"),
        ("player serve tiny.nerv --max-private 1.5", "not a whole number: '1.5'"),
        (
            "player serve tiny.nerv --idle-seconds nan",
            "not a number of seconds of at most a day: 'nan'",
        ),
        (
            "player serve tiny.nerv --drain-seconds -1",
            "not a number of seconds of at most a day: '-1'",
        ),
        ("player serve tiny.nerv --bitrate 1G", "not bits per second in 50k..100M: '1G'"),
        ("player serve tiny.nerv --bitrate \u0665M", "not bits per second in 50k..100M: "),
        ("player serve tiny.nerv --bitrate 10", "not bits per second in 50k..100M: '10'"),
        ("player serve http://127.0.0.1:9/x.nerv", "cannot fetch http://127.0.0.1:9/x.nerv"),
        (
            "player publish tiny.nerv whip.example.org",
            "a WHIP endpoint has an address like https://example.org/whip",
        ),
        ("player publish tiny.nerv file:///etc/passwd", "a WHIP endpoint has an address like"),
        ("player publish nope.nerv http://127.0.0.1:9/whip", "cannot read nope.nerv"),
        ("player publish tiny.nerv http://127.0.0.1:9/whip --codec AV1", "invalid choice: 'AV1'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, command, line):
    before = sorted(folder.rglob("*"))
    done = run(command, folder)
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("package", "absent", "command", "extra"),
    [
        ("encoder", "torch", "fit", "nervcast[encoder]"),
        ("player", "aiohttp", "serve", "nervcast[player]"),
    ],
)
def test_what_is_not_installed_is_named(tmp_path, package, absent, command, extra):
    code = f"import sys; sys.modules['{absent}'] = None; from {package}.cli.main import main; sys.exit(main(['{command}']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {absent} is not installed: pip install '{extra}'\n",
    )


def test_busy_port(folder):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        done = run(f"player serve tiny.nerv --port {busy.getsockname()[1]}", folder)
    assert done.returncode == 2
    assert "cannot listen on 127.0.0.1" in done.stderr
    assert done.stderr.count("\n") == 1


def test_from_video_to_files(tmp_path, write_video):
    frames = np.repeat(np.arange(40, 240, 20, dtype=np.uint8), 3 * 36 * 64).reshape(10, 3, 36, 64)
    write_video(frames, "video.mp4")
    done = run(
        "encoder fit video.mp4 --epochs 30 --segment-frames 5 --seed 3 --device cpu", tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    told = re.search(r"video\.nerv: (\d+\.\d\d) dB in (\d+) bytes, ", done.stderr)
    assert told, done.stderr

    info = json.loads(run("encoder info video.nerv --json", tmp_path).stdout)
    assert (info["frames"], info["segments"], info["width"]) == (10, 2, 64)
    settings = "--preset fast --size S --resize 64x36 --epochs 30 --segment-frames 5 --key-interval 8 --seed 3"
    assert info["settings"] == f"{settings} (BT.601 assumed)"

    result = json.loads(run("encoder evaluate video.nerv video.mp4 --json", tmp_path).stdout)
    qualities = ["psnr_db", "psnr_yuv_db", "ms_ssim", "psnr_masked_db"]
    assert list(result) == [
        *qualities,
        "bits_per_pixel",
        "picture_bits_per_pixel",
        "file_bytes",
        "audio_bytes",
        "frames",
        "width",
        "height",
        "fps",
    ]
    assert result["file_bytes"] == (tmp_path / "video.nerv").stat().st_size
    assert result["psnr_db"] > 20
    assert [told[1], told[2]] == [f"{result['psnr_db']:.2f}", str(result["file_bytes"])]

    assert run("export onnx", tmp_path).returncode == 0
    assert {path.name for path in tmp_path.glob("*.onnx")} == {"video-000.onnx", "video-001.onnx"}


@pytest.fixture
def quick(monkeypatch):
    """Measure for a moment."""
    monkeypatch.setattr("export.benchmark.MEASURE_SECONDS", 0.05)
    monkeypatch.setattr("export.roofline.MAX_SIDE", 512)
    monkeypatch.setattr("export.roofline.MEMORY_MATRIX", (64, 128))


@pytest.mark.usefixtures("quick")
def test_bench_of_all_engines_that_run_here(folder):
    done = run("export bench tiny.nerv --json --batch 4 2", folder)
    rows = json.loads(done.stdout)
    found = [(row["engine"], row["batch"]) for row in rows]
    assert found[-4:] == [
        ("openvino", 4),
        ("openvino", 2),
        ("onnxruntime-cpu", 4),
        ("onnxruntime-cpu", 2),
    ]
    assert all(row["fps"] > 0 and row["share"] > 0 and row["peak_gflops"] > 0 for row in rows)
    if len(found) == 4:
        assert "onnxruntime-cuda is left out: no CUDA device" in done.stderr


@pytest.mark.usefixtures("quick")
def test_bench_says_what_bounds_an_engine(folder):
    done = run("export bench tiny.nerv --batch 1 --engine openvino", folder)
    assert done.stdout.splitlines()[0].split()[:3] == ["engine", "precision", "batch"]
    assert len(done.stdout.splitlines()) == 2
    assert re.search(
        r"openvino, batch 1, is bound by (arithmetic|memory|launches|copy): \S+ GFLOP and \S+ MB a frame",
        done.stderr,
    )


def test_export_with_integers_says_what_they_lose(folder):
    done = run("export onnx tiny.nerv --int8 tiny.mp4", folder)
    assert done.returncode == 0
    found = re.findall(
        r"frames from (\d): integers in \d+ of \d+ convolutions, \d+ % of their arithmetic, lose (\S+) dB; in all, \S+ dB",
        done.stderr,
    )
    assert [start for start, _ in found] == ["0", "3"]
    assert all(float(loss) < 0.1 for _, loss in found)
    assert {path.name for path in folder.glob("*.onnx")} == {"tiny-000.onnx", "tiny-001.onnx"}


def test_verify_compares_with_the_reference_and_the_source(folder):
    done = run("export verify tiny.nerv tiny.mp4 --json --engine openvino onnxruntime-cpu", folder)
    assert done.returncode == 0
    rows = json.loads(done.stdout)
    assert [row["engine"] for row in rows] == ["openvino", "onnxruntime-cpu"]
    assert all(
        row["holds"] and row["frames"] == 6 and row["largest_difference"] <= 1 for row in rows
    )
    assert all(abs(row["psnr_db"] - row["reference_psnr_db"]) < 0.1 for row in rows)


def test_verify_ends_with_1_where_an_engine_differs(folder):
    done = run("export verify tiny.nerv --tolerance -1 --engine onnxruntime-cpu", folder)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].split()[-1] == "no"


def test_ladder_from_one_fit(tmp_path, write_video):
    write_video(moving_square(10, 36, 64), "video.mp4")
    fit = "encoder fit video.mp4 --epochs 20 --segment-frames 5 --key-interval 1 --checkpoint fit.safetensors --lambda 0.1"
    assert run(fit, tmp_path).returncode == 0
    (tmp_path / "video.mp4").rename(tmp_path / "moved.mp4")
    command = "encoder compress fit.safetensors --bits-per-pixel 8 4 --budget 2 -o rung.nerv"
    missing = run(command, tmp_path)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "no such file or folder" in missing.stderr
    done = run(f"{command} --source moved.mp4", tmp_path)
    assert done.returncode == 0, done.stderr
    sizes = [(tmp_path / f"rung-{rate}bpp.nerv").stat().st_size for rate in (8, 4)]
    assert sizes[1] < sizes[0]
    info = json.loads(run("encoder info rung-4bpp.nerv --json", tmp_path).stdout)
    assert (info["frames"], info["key_segments"], info["damage"]) == (10, 2, "")


def test_fit_to_a_quality_tells_if_it_is_missed_and_has_a_checkpoint(tmp_path, write_video):
    write_video(moving_square(10, 36, 64), "video.mp4")
    fit = "encoder fit video.mp4 --epochs 2 --psnr 55 --checkpoint fit.safetensors"
    done = run(fit, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dB instead of 55; a larger budget or --size may reach it" in done.stderr
    done = run("encoder compress fit.safetensors --bits-per-pixel 4 -o rung.nerv", tmp_path)
    assert done.returncode == 0, done.stderr
    info = json.loads(run("encoder info rung-4bpp.nerv --json", tmp_path).stdout)
    assert "--psnr" not in info["settings"]


@pytest.mark.parametrize(
    ("options", "coder", "made"),
    [
        ("--bits 6 --prune 0.2 --coder huffman", HUFFMAN, {"values": 63, "zeros": 0.2}),
        ("--bits 4", RANGE, {"values": 15, "zeros": 0}),
        ("--lambda 50", RANGE, {"values": 8191, "zeros": 0.9}),
        ("--bitrate 900k", RANGE, {"values": 8191, "zeros": 0}),
    ],
)
def test_ways_to_a_smaller_file(tmp_path, write_video, options, coder, made):
    write_video(moving_square(4, 36, 64), "video.mp4")
    done = run(f"encoder fit video.mp4 --epochs 150 {options}", tmp_path)
    assert done.returncode == 0, done.stderr
    info = json.loads(run("encoder info video.nerv --json", tmp_path).stdout)
    assert options in info["settings"]
    clip = Clip.read(tmp_path / "video.nerv")
    (segment,) = clip.segments
    weights = segment.weights(clip.topology.tensors)
    # Latents, whose grids have other sides, are not pruned.
    kernels = [x for x in weights.values() if x.shape[2:] in ((1, 1), (3, 3))]
    assert segment.coder == coder
    assert max(len(np.unique(x)) for x in weights.values()) <= made["values"]
    assert np.mean([not weight for x in kernels for weight in x.ravel()]) >= made["zeros"]


def test_models_are_listed(tmp_path):
    rows = json.loads(run("encoder models --resize 320x180 --frames 50 --json", tmp_path).stdout)
    assert [(row["preset"], row["size"]) for row in rows] == [
        (preset, size) for preset in PRESETS for size in SIZES
    ]
    assert all(list(row) == ["preset", "size", "parameters", "macs_per_pixel"] for row in rows)
    assert all(row["parameters"] > 1000 and row["macs_per_pixel"] > 100 for row in rows)


def test_masked_pixels_are_filled_and_measured(tmp_path, write_video):
    write_video(moving_square(4, 36, 64), "video.mp4")
    mask = np.zeros((1, 3, 36, 64), np.uint8)
    mask[..., 10:20, 10:30] = 255
    write_video(mask, "mask.mp4")
    done = run(
        "encoder fit video.mp4 --mask mask.mp4 --epochs 20 --size XS --preset hnerv", tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    info = json.loads(run("encoder info video.nerv --json", tmp_path).stdout)
    assert info["settings"].startswith(
        "--preset hnerv --size XS --resize 64x36 --mask mask.mp4 --epochs 20"
    )
    result = json.loads(
        run("encoder evaluate video.nerv video.mp4 --mask mask.mp4 --json", tmp_path).stdout
    )
    assert 5 < result["psnr_masked_db"] < 60


@pytest.mark.soak
def test_comparison_is_reported(tmp_path, write_video):
    write_video(moving_square(4, 36, 64), "video.mp4")
    command = (
        "encoder compare video.mp4 --presets fast nerv --codecs x264 --rates 2 --epochs 2 -o report"
    )
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert files == {"results.json", "report.md", "report.html", "files"}
    assert len(list((tmp_path / "report" / "files").iterdir())) == 6
    before = (tmp_path / "report" / "results.json").read_bytes()
    assert run(command, tmp_path).returncode == 0
    assert (tmp_path / "report" / "results.json").read_bytes() == before
    other = run(f"{command} --seed 1", tmp_path)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "holds a comparison of another seed" in other.stderr


def test_damaged_segment_is_reported_and_decoding_goes_on(folder):
    data = bytearray((folder / "tiny.nerv").read_bytes())
    data[-2000] ^= 1  # in the second segment
    (folder / "hurt.nerv").write_bytes(data)
    done = run("player decode hurt.nerv frames/", folder)
    assert done.returncode == 0
    assert "hurt.nerv: chunk SEGM at byte" in done.stderr
    assert len(list((folder / "frames").iterdir())) == 6
    assert (
        "checksum differs"
        in json.loads(run("encoder info hurt.nerv --json", folder).stdout)["damage"]
    )
    assert run("export onnx hurt.nerv", folder).returncode == 2


def test_export_takes_the_newest_clip_and_names_are_free(folder):
    newer = folder / "newer.nerv"
    newer.write_bytes((folder / "tiny.nerv").read_bytes())
    os.utime(newer, (time.time() + 10, time.time() + 10))
    assert run("export onnx --pixels rgb --precision fp16", folder).returncode == 0
    assert (folder / "newer-000.onnx").exists()
    assert run("export onnx tiny.nerv -o graph.onnx", folder).returncode == 0
    assert (folder / "graph-001.onnx").exists()


def test_export_does_not_replace_the_clip(tmp_path):
    clip = tmp_path / "bunny.nerv"
    clip.write_bytes(SAMPLE.read_bytes())
    done = run("export onnx -o bunny.nerv", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "bunny.nerv is also another file of this command" in done.stderr
    assert clip.read_bytes() == SAMPLE.read_bytes()


def test_export_without_any_clip(tmp_path):
    (tmp_path / ".bunny.1.part.nerv").touch()  # one that is being written
    done = run("export onnx", tmp_path)
    assert done.returncode == 2
    assert "no .nerv file in the current folder" in done.stderr


def test_folder_of_images_gives_its_name_to_the_clip(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    assert (
        run(f"player decode {ROOT}/player/data/bunny.nerv images --frames 0:3", tmp_path).returncode
        == 0
    )
    assert run("encoder fit . --epochs 1 --resize 32x18", images).returncode == 0
    assert (images / "images.nerv").exists()


def test_figures_for_people(folder):
    text = run("encoder info tiny.nerv", folder).stdout
    assert re.search(r"^frames +6$", text, re.MULTILINE)


STUBBORN = """
import sys, time
from player.cli.main import main
from player.playback.playout import Playout
Playout.close = lambda self: time.sleep(60)
sys.exit(main(["serve", "--port", "0", *sys.argv[1:]]))
"""
"""A server whose engine takes its time to end."""


@contextlib.contextmanager
def serving(arguments, cwd):
    """Start a server; give its process and the lines it printed up to that with its address."""
    command = [sys.executable, "-m", "player", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True) as server:
        lines = []
        while not lines or "serving" not in lines[-1]:
            lines.append(server.stderr.readline())
            assert lines[-1], lines
        yield server, lines
        if server.poll() is None:
            server.terminate()
        assert server.wait(10) == 0
        assert server.stderr.read() == ""


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.soak), signal.SIGTERM]
)
def test_serve_ends_cleanly(folder, number):
    with serving(["tiny.nerv"], folder) as (server, lines):
        assert re.fullmatch(
            r"serving tiny on [a-z-]+ at http://127\.0\.0\.1:\d+ \(Ctrl-C stops\)\n", lines[-1]
        )
        server.send_signal(number)
        assert server.wait(10) == 0


def test_second_signal_ends_at_once(folder):
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN, "tiny.nerv"], cwd=folder, stderr=subprocess.PIPE, text=True
    ) as server:
        assert any("serving" in line for line in server.stderr)
        server.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert server.poll() is None
        server.send_signal(signal.SIGINT)
        assert server.wait(5) == 1


def test_serve_takes_the_folders_clips_and_leaves_damaged_ones_out(folder):
    with serving([], folder) as (_, lines):
        assert "damaged.nerv is left out: clip ends before its first segment" in lines[0]
        assert "serving tiny on" in lines[1]


def test_serve_without_clips_shows_the_sample(tmp_path):
    with serving([], tmp_path) as (_, lines):
        assert "serving bunny on" in lines[-1]


def test_clips_of_the_same_name_are_told_apart(folder):
    with serving(["tiny.nerv", "empty/../tiny.nerv"], folder) as (_, lines):
        assert "serving tiny, tiny-2 on" in lines[-1]


@pytest.mark.parametrize("file", ["README.md", "docs/how-to/deploy.md", "docs/how-to/scale.md"])
def test_players_in_the_documents_get_as_far_as_their_clips(file, tmp_path, monkeypatch):
    monkeypatch.setenv("NERVCAST_TOKEN", "a token of theirs")
    commands = re.findall(
        r"python -m (player (?:serve|publish) [^`\n]*\.nerv[^`\n#]*)", (ROOT / file).read_text()
    )
    assert commands
    for command in commands:
        done = run(command, tmp_path)
        assert (done.returncode, done.stderr.startswith("error: cannot read ")) == (2, True), (
            done.stderr
        )


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.soak), signal.SIGTERM]
)
def test_interrupted_fit_leaves_nothing(write_video, number):
    path = write_video(moving_square(6, 36, 64))
    command = [sys.executable, "-m", "encoder", "fit", path, "--budget", "100"]
    with subprocess.Popen(command, cwd=path.parent, stderr=subprocess.PIPE, text=True) as fit:
        # A slow machine writes lines of progress before.
        assert any("fitting 6 frames of 64x36" in line for line in fit.stderr)
        time.sleep(1)
        fit.send_signal(number)
        assert fit.wait(30) == 130
        assert fit.stderr.read().splitlines()[-1] == "interrupted"
    assert list(path.parent.iterdir()) == [path]
