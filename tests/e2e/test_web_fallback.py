"""Clips that the page's kernels cannot run, decoded in Chromium by onnxruntime-web."""

import base64
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, DRIVER, browsing, faults, pixels_at, run
from hosting import hosting
from operator_clips import IMAGE, number, one_node, pictures
from waiting import wait_for

from export.cli.main import main
from export.web.folder import RUNTIME, write_site

PACKAGE = Path(__file__).parents[2] / ".peers" / "onnxruntime-web@1.30.0"
FRAMES = 0, 3, 7

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(
        not PACKAGE.exists(), reason="no onnxruntime-web: sh tests/support/install_peers.sh"
    ),
]

CASES = {
    "LeakyRelu": ("LeakyRelu", [IMAGE], {"alpha": 0.25}, []),
    "ReduceMean": ("ReduceMean", [IMAGE], {"keepdims": 0}, [number(-1)]),
    "Slice": ("Slice", [IMAGE], {}, [number(1, -4), number(4, 5), number(1, 3)]),
    "Pad": ("Pad", [IMAGE], {"mode": "reflect"}, [number(0, 0, 1, 2, 0, 0, 2, 1)]),
    "AveragePool": ("AveragePool", [IMAGE], {"kernel_shape": [2, 2], "strides": [1, 2]}, []),
    "LayerNormalization": ("LayerNormalization", [IMAGE, (6,), (6,)], {"epsilon": 1e-3}, []),
    "Conv with steps": ("Conv", [IMAGE, (3, 4, 3, 3)], {"strides": [2, 1], "pads": [1] * 4}, []),
    "Softmax of channels": ("Softmax", [IMAGE], {"axis": 1}, []),
}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A headless Chromium for all tests."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium: sh tests/support/install_peers.sh")
    with browsing(tmp_path_factory.mktemp("browser") / "profile") as driver:
        yield driver


def clip_of(case):
    return one_node(*CASES[case], is_varying=True)


def site_of(clip, folder, *options):
    path = folder / "film.nerv"
    path.write_bytes(bytes(clip))
    assert main(["web", str(path), "-o", str(folder / "site"), *options]) == 0
    return folder / "site"


def notice(driver):
    return driver.find_element("id", "notice").text


@pytest.mark.parametrize("case", CASES)
def test_the_picture_is_that_of_onnx_runtime(driver, tmp_path, case):
    clip = clip_of(case)
    rate = float(clip.header.rate)
    with hosting(site_of(clip, tmp_path, "--onnxruntime-web", str(PACKAGE))) as url:
        driver.get(url)
        wait_for(lambda: notice(driver) != "loading…", 30)
        assert notice(driver) == ""
        shown = run(driver, pixels_at([(frame + 0.01) / rate for frame in FRAMES]))
        assert faults(driver) == []
    size = (len(FRAMES), 2, clip.header.width, 4)
    pixels = np.frombuffer(b"".join(map(base64.b64decode, shown)), np.uint8).reshape(size)
    expected = pictures(clip, FRAMES)
    assert np.abs(pixels[..., :3].transpose(0, 3, 1, 2).astype(int) - expected).max() <= 1


def test_without_the_runtime_such_a_clip_is_refused_by_name(driver, tmp_path):
    with hosting(site_of(clip_of("LeakyRelu"), tmp_path)) as url:
        driver.get(url)
        wait_for(lambda: notice(driver) not in {"", "loading…"})
        assert notice(driver) == "the operator LeakyRelu has no kernel here"


def test_other_clips_do_not_load_the_runtime(driver, tiny_file, tmp_path):
    write_site([tiny_file], tmp_path / "site", PACKAGE)
    with hosting(tmp_path / "site") as url:
        driver.get(url)
        wait_for(lambda: run(driver, "window.nervcast?.currentTime > 0") is True, 20)
        loaded = run(driver, "performance.getEntriesByType('resource').map(({ name }) => name)")
        assert not any(RUNTIME in name or "fallback" in name for name in loaded)


def test_another_folder_is_no_package(tiny_file, tmp_path, capsys):
    options = ["web", str(tiny_file), "-o", str(tmp_path / "site"), "--onnxruntime-web"]
    assert main([*options, str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no unpacked package onnxruntime-web: ")
    assert not list((tmp_path / "site").glob("*.html"))
