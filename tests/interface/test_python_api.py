"""The Python interface: fit, open, decode, evaluate, and engines."""

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from helpers import SAMPLE, moving_square
from torch import nn

import encoder
import export
from encoder.common.errors import BitstreamError, SettingsError
from encoder.presets import PRESETS

FRAMES = moving_square(6, 18, 32)


@pytest.fixture(scope="module")
def clip():
    progress = []
    made = encoder.fit(FRAMES, size="XS", epochs=3, frame_rate=30, on_progress=progress.append)
    assert progress[-1].done == pytest.approx(1)
    assert "segment 1" in str(progress[0])
    return made


def test_clip_has_its_shape(clip):
    assert (clip.frame_rate, len(clip), clip.size) == (Fraction(30), 6, (32, 18))
    assert clip.header.settings.startswith("--preset fast --size XS --resize 32x18 --epochs 3 ")


def test_frames_by_number_slice_and_time(clip):
    frames = clip[0:6]
    assert (frames.shape, frames.dtype) == ((6, 3, 18, 32), np.uint8)
    assert np.array_equal(clip[-1], frames[5])
    assert np.array_equal(clip[4:0:-2], frames[[4, 2]])
    assert np.array_equal(clip.decode([3, 0]), frames[[3, 0]])
    assert clip.decode([3.5, 4.5]).shape == (2, 3, 18, 32)
    assert clip[2:2].shape == (0, 3, 18, 32)
    for index in (6, -7):
        with pytest.raises(IndexError, match=r"frame must be in 0\.\.5"):
            clip[index]


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_saved_clip_is_opened_again(clip, tmp_path, kind):
    path = tmp_path / "clip.nerv"
    clip.save(kind(path))
    again = encoder.open(kind(path))
    assert bytes(again) == path.read_bytes() == bytes(clip)
    assert np.array_equal(again[0:6], clip[0:6])


def test_files_that_are_no_clips(tmp_path):
    with pytest.raises(BitstreamError, match="No such file"):
        encoder.open(tmp_path / "nope.nerv")
    (tmp_path / "text.nerv").write_text("text")
    with pytest.raises(encoder.CodecError):
        encoder.open(tmp_path / "text.nerv")


def test_evaluation_is_of_the_decoded_frames(clip, tmp_path, write_video):
    found = encoder.evaluate(clip, FRAMES)
    error = np.square(clip[0:6].astype(float) - FRAMES).mean((1, 2, 3))
    assert found.psnr_db == pytest.approx(np.mean(10 * np.log10(255**2 / error)))
    assert found.file_bytes == len(bytes(clip))
    video = str(write_video(FRAMES, name="lossless.mp4"))
    clip.save(tmp_path / "clip.nerv")
    again = encoder.evaluate(str(tmp_path / "clip.nerv"), video, matrix="bt601")
    assert again.psnr_db == pytest.approx(found.psnr_db, abs=0.3)


@pytest.mark.parametrize("make", [torch.from_numpy, lambda frames: frames / 255])
def test_tensors_and_floats_are_frames(make):
    fit = partial(encoder.fit, size="XS", epochs=1, seed=3)
    assert bytes(fit(make(FRAMES))) == bytes(fit(FRAMES))


def test_fit_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    encoder.fit(FRAMES, size="XS", epochs=1)
    assert torch.equal(torch.rand(3), expected)


class Wave(nn.Module):
    """A network of the user's own."""

    def __init__(self, shape):
        super().__init__()
        self.base = nn.Parameter(torch.full((1, 3, shape.height, shape.width), 0.5))
        self.slope = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, t):
        return (self.base + self.slope * t.view(-1, 1, 1, 1)).clamp(0, 1)


def test_network_of_ones_own():
    clip = encoder.fit(FRAMES, network=Wave, epochs=60)
    assert encoder.evaluate(clip, FRAMES).psnr_db > 12
    assert clip.header.settings.startswith("custom network --resize 32x18 --epochs 60 ")
    with export.open_engine(clip, "onnxruntime-cpu", pixels="rgb") as engine:
        assert np.abs(engine[0:6].astype(int) - clip[0:6]).max() <= 1


def test_record_tells_of_a_recipe_and_of_assumed_colours(write_video):
    recipe = replace(PRESETS["fast"].recipe, batch=2)
    clip = encoder.fit(write_video(FRAMES), size="XS", epochs=1, recipe=recipe)
    record = clip.header.settings
    assert record.startswith("--preset fast --size XS with a custom recipe --resize 32x18 ")
    assert record.endswith(" (BT.601 assumed)")


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (FRAMES[:, :2], r"frames must be of shape \(T, 3, H, W\), got \(6, 2, 18, 32\)"),
        (FRAMES[0], r"frames must be of shape"),
        (FRAMES[:0], r"frames must be of shape"),
        (FRAMES.astype(np.int64), "frames must be uint8 or floats in 0..1, got int64"),
        (FRAMES.astype(float), "frames of floats must be in 0..1"),
        (FRAMES * np.nan, "frames of floats must be in 0..1"),
    ],
)
def test_arrays_that_are_no_frames(frames, reason):
    with pytest.raises(SettingsError, match=reason):
        encoder.fit(frames, epochs=1)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"epocs": 3}, "no such setting: epocs; known are"),
        ({"epochs": 0}, "the number of epochs must be at least 1"),
        ({"preset": "x264"}, "unknown preset 'x264'"),
        ({"frame_rate": 0}, "the frame rate must be over 0, got 0"),
        ({"frame_rate": float("nan")}, "the frame rate must be over 0, got nan"),
        ({"resize": (16, 16)}, "frames of an array are not resized"),
        ({"file_size": "9"}, "the file's size must be over"),
    ],
)
def test_settings_that_do_not_fit(settings, reason):
    with pytest.raises(SettingsError, match=reason):
        encoder.fit(FRAMES, **settings)


def test_settings_of_a_wrong_type_are_errors_of_python():
    with pytest.raises(TypeError, match="not supported between instances of 'str' and 'int'"):
        encoder.fit(FRAMES, epochs="3")


@pytest.mark.parametrize(
    ("frames", "options", "reason"),
    [
        (FRAMES[:, :, :16], {}, r"the clip has \(32, 18\) pixels, the frames \(32, 16\)"),
        (FRAMES[:3], {}, "the clip has 6 frames, the source 3"),
        (FRAMES, {"matrix": "bt709"}, "an array is read as it is, without matrix"),
    ],
)
def test_evaluations_that_do_not_fit(clip, frames, options, reason):
    with pytest.raises(SettingsError, match=reason):
        encoder.evaluate(clip, frames, **options)


def test_engines_take_clips_paths_and_slices(clip):
    with export.open_engine(SAMPLE, "openvino", pixels="rgb") as engine:
        expected = encoder.open(SAMPLE)[0:3]
        assert np.abs(engine[0:3].astype(int) - expected).max() <= 1
        assert np.array_equal(engine[2], engine[0:3][2])
        with pytest.raises(IndexError, match=rf"frame must be in 0\.\.{len(engine) - 1}"):
            engine[len(engine)]
    with export.open_engine(clip, "onnxruntime-cpu") as engine:
        assert engine[0:2].shape == (2, 27, 32)


@pytest.mark.parametrize("package", ["encoder", "export"])
def test_import_is_fast_and_free_of_torch(package):
    code = f"import sys, time; t = time.time(); import {package}; print(time.time() - t); "
    code += f"{package}.__all__; print('torch' in sys.modules, 'onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *loaded = done.stdout.split()
    assert float(seconds) < 0.2
    assert loaded == ["False", "False"]


def test_unknown_names():
    with pytest.raises(AttributeError, match="module 'encoder' has no attribute 'nope'"):
        encoder.nope  # noqa: B018
    with pytest.raises(AttributeError, match="module 'export' has no attribute 'nope'"):
        export.nope  # noqa: B018


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "2000"), ({"OMP_WAIT_POLICY": "active"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_waiting_threads_let_others_have_the_core(given, spins):
    """Unless the user says otherwise."""
    usual = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", "import os, encoder; print(os.environ.get('GOMP_SPINCOUNT'))"],
        env=usual | given,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == spins
