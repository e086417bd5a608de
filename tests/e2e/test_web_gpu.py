"""Decoding by WebGPU in Chromium, on a GPU of software, and what becomes of GPUs that fail."""

import base64
import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from chromium import CHROMIUM, DRIVER, SOFTWARE_GPU, browsing, faults, pixels_at, run
from golden import DATA
from helpers import SAMPLE
from hosting import hosting
from operator_clips import CASES, TIMES, one_node, pictures
from waiting import wait_for

from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from export.web.folder import write_site

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no Chromium: sh tests/support/install_peers.sh"
    ),
]

WITHOUT_SHADER = {
    "Cos",
    "Gather",
    "Gemm",
    "InstanceNormalization",
    "MatMul",
    "Pow",
    "Sin",
    "Softmax",
}
"""Operators that the kernels alone have."""
DECODE = """
(async () => {
  const load = (name) => import(new URL(name, location.href).href);
  const [{ ClipReader }, { Kernels }, { Program }, { Gpu }, { OPERATOR_NAMES }] = await Promise.all(
    ["clip.js", "kernels.js", "program.js", "gpu.js", "shaders.js"].map(load),
  );
  const get = async (name) => (await fetch(name)).arrayBuffer();
  const module = await WebAssembly.compile(await get("kernels.wasm"));
  const dictionaries = { 2: new Uint8Array(await get("dictionary2.bin")) };
  const adapter = () => navigator.gpu.requestAdapter();
  window.decode = async (text, times) => {
    const reader = new ClipReader(dictionaries);
    reader.feed(Uint8Array.from(atob(text), (each) => each.charCodeAt(0)));
    reader.finish();
    const kernels = new Kernels(module);
    const program = new Program(reader, kernels);
    program.load(0);
    const gpu = await Gpu.make(program, kernels, await adapter(), { starts: OPERATOR_NAMES, least: 0 });
    const found = [];
    const pixels = new Uint8ClampedArray(4 * program.width * program.height);
    for (const time of times) {
      await gpu.draw(time, pixels);
      found.push(btoa(String.fromCharCode(...pixels)));
    }
    gpu.close();
    return found;
  };
  return true;
})()
"""
"""Defines a function that decodes a clip, with all that has a shader on the GPU."""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A Chromium with a GPU of software."""
    with browsing(tmp_path_factory.mktemp("gpu") / "profile", *SOFTWARE_GPU) as driver:
        driver.set_script_timeout(120)
        yield driver


@pytest.fixture(scope="module")
def page(driver, tmp_path_factory):
    """A page with a function that decodes clips."""
    folder = tmp_path_factory.mktemp("site")
    write_site([SAMPLE], folder)
    with hosting(folder) as url:
        driver.get(f"{url}/speed.html")
        assert run(driver, DECODE) is True
        yield driver


@pytest.fixture
def site(tmp_path):
    """A site with a small clip of two segments."""
    folder = tmp_path / "site"
    write_site([DATA / "v2-pyramid.nerv"], folder)
    return folder


@contextmanager
def playing(driver, site, engine="webgpu"):
    """Open the page of a site with an engine."""
    with hosting(site) as url:
        driver.get(f"{url}/?engine={engine}")
        wait_for(lambda: run(driver, "window.nervcast?.currentTime > 0") is True, 30)
        yield driver


def statistic(driver, name):
    return run(driver, f"nervcast.statistics.{name}")


def assert_right(driver, path, frames=None):
    """Compare what the page shows of some frames with the reference decoder."""
    clip = Clip.read(path)
    rate = float(clip.header.rate)
    frames = frames or [0, clip.header.frames // 2, clip.header.frames - 1]
    times = [(frame + 0.01) / rate for frame in frames]
    shown = run(driver, pixels_at(times))
    size = (len(frames), clip.header.height, clip.header.width, 4)
    pixels = np.frombuffer(b"".join(map(base64.b64decode, shown)), np.uint8).reshape(size)
    decoder = ReferenceDecoder(clip)
    expected = np.stack([decoder.frame(frame) for frame in frames])
    assert np.abs(pixels[..., :3].transpose(0, 3, 1, 2).astype(int) - expected).max() <= 1


def spoil(site, name, before, after):
    """Change a script of a site."""
    text = (site / name).read_text()
    assert text.count(before) == 1
    (site / name).write_text(text.replace(before, after))


@pytest.mark.parametrize("case", CASES)
def test_one_operator_is_that_of_onnx_runtime(page, case):
    clip = one_node(*CASES[case], is_varying=True)
    text = base64.b64encode(bytes(clip)).decode()
    shown = run(page, f"decode({json.dumps(text)}, {json.dumps(TIMES)})")
    op = CASES[case][0]
    if op in WITHOUT_SHADER:
        assert shown == f"UnsupportedError: there is no shader for {op}"
        return
    assert isinstance(shown, list), shown
    expected = pictures(clip)
    pixels = np.frombuffer(b"".join(map(base64.b64decode, shown)), np.uint8)
    found = pixels.reshape(len(TIMES), 2, clip.header.width, 4)[..., :3].transpose(0, 3, 1, 2)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_gpu_takes_over_and_shows_the_same(driver, site):
    with playing(driver, site):
        wait_for(lambda: statistic(driver, "engine") == "webgpu", 60)
        assert statistic(driver, "gpuFault") is None
        assert statistic(driver, "workers") == 1
        assert_right(driver, DATA / "v2-pyramid.nerv")
        assert statistic(driver, "engine") == "webgpu"
        wait_for(lambda: "WebGPU" in driver.find_element("id", "panel").text)
        assert faults(driver) == []


def test_the_sample_is_decoded_by_a_gpu(driver, tmp_path):
    write_site([SAMPLE], tmp_path)
    with playing(driver, tmp_path):
        wait_for(lambda: statistic(driver, "engine") == "webgpu", 60)
        assert_right(driver, SAMPLE)
        assert statistic(driver, "engine") == "webgpu"


def test_passes_of_more_workgroups_than_a_row_has(driver, site):
    spoil(site, "gpu.js", "MAX_GROUPS = 65535", "MAX_GROUPS = 2")
    with playing(driver, site):
        wait_for(lambda: statistic(driver, "engine") == "webgpu", 60)
        assert_right(driver, DATA / "v2-pyramid.nerv")
        assert statistic(driver, "engine") == "webgpu"


def test_a_segment_without_weights_leaves_the_gpu_to_the_others(driver, tmp_path):
    clip = Clip.read(DATA / "v2-pyramid.nerv")
    *others, last = clip.segments
    path = tmp_path / "damaged.nerv"
    path.write_bytes(bytes(replace(clip, segments=(*others, replace(last, code=last.code[:-1])))))
    write_site([path], tmp_path / "site")
    with playing(driver, tmp_path / "site"):
        wait_for(lambda: statistic(driver, "engine") == "webgpu", 60)
        wait_for(lambda: statistic(driver, "damage"), 60)
        assert_right(driver, path, [0, others[-1].start])
        assert statistic(driver, "engine") == "webgpu"


@pytest.mark.parametrize("engine", ["auto", "wasm", "other"])
def test_a_gpu_of_software_is_no_faster_so_nobody_takes_it_unasked(driver, site, engine):
    with playing(driver, site, engine):
        wait_for(lambda: statistic(driver, "decodedFrames") > 20, 30)
        assert statistic(driver, "engine") == "wasm"
        assert statistic(driver, "gpuFault") is None


def test_a_gpu_that_draws_another_picture_is_not_used(driver, site):
    spoil(site, "shaders.js", "* 255.0", "* 251.0")
    with playing(driver, site):
        wait_for(lambda: statistic(driver, "gpuFault"), 60)
        assert statistic(driver, "gpuFault") == "the GPU draws another picture"
        assert_right(driver, DATA / "v2-pyramid.nerv")
        assert statistic(driver, "engine") == "wasm"


def test_the_kernels_go_on_when_the_gpu_is_lost(driver, site):
    spoil(
        site, "gpu.js", "this.#program.begin(time);",
        "this.#program.begin(time); this.count = (this.count ?? 0) + 1; if (this.count > 5) this.#device.destroy();",
    )  # fmt: skip
    with playing(driver, site):
        wait_for(lambda: statistic(driver, "gpuFault"), 60)
        assert statistic(driver, "engine") == "wasm"
        assert_right(driver, DATA / "v2-pyramid.nerv")


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("MAX_PASSES = 4096", "the clip needs too many passes of the GPU"),
        ("MAX_SHADERS = 512", "the clip needs too many shaders"),
        ("MAX_BYTES = 2 ** 30", "the clip needs too much memory of the GPU"),
    ],
)
def test_a_clip_that_needs_too_much_of_the_gpu_leaves_the_kernels(driver, site, limit, message):
    spoil(site, "gpu.js", limit, f"{limit.split(' = ')[0]} = 2")
    with playing(driver, site):
        wait_for(lambda: statistic(driver, "gpuFault"), 60)
        assert statistic(driver, "gpuFault") == message
        wait_for(lambda: statistic(driver, "decodedFrames") > 20, 30)
        assert statistic(driver, "engine") == "wasm"


def test_a_shader_that_does_not_compile_leaves_the_kernels(driver, site):
    spoil(site, "shaders.js", "y[q] = x0[p];", "y[q] = x0[p")
    with playing(driver, site):
        wait_for(lambda: statistic(driver, "gpuFault"), 60)
        assert_right(driver, DATA / "v2-pyramid.nerv")
        assert statistic(driver, "engine") == "wasm"


@pytest.mark.parametrize("name", ["v1-fast", "v1-huffman", "v1-nervpp", "v1-pyramid", "v2-sound"])
def test_every_golden_clip_is_shown_with_a_gpu(driver, tmp_path, name):
    """By the GPU, or by the kernels where it has no shader."""
    path = DATA / f"{name}.nerv"
    write_site([path], tmp_path)
    with playing(driver, tmp_path):
        wait_for(
            lambda: statistic(driver, "engine") == "webgpu" or statistic(driver, "gpuFault"), 60
        )
        assert_right(driver, path)


def test_the_page_of_speeds_measures_both_engines(driver, site):
    with hosting(site) as url:
        driver.get(f"{url}/speed.html")
        driver.find_element("id", "begin").click()
        wait_for(lambda: driver.find_element("id", "state").text == "Done.", 60)
        rows = [row.text for row in driver.find_elements("css selector", "#speeds tr")]
        assert [("WebAssembly" in row, "WebGPU" in row, " fps" in row) for row in rows] == [
            (True, False, True), (False, True, True),
        ]  # fmt: skip
        assert "cores; GPU: " in driver.find_element("id", "machine").text
        assert faults(driver) == []


def test_the_page_of_speeds_tells_that_there_is_no_gpu(site, tmp_path):
    with browsing(tmp_path / "profile") as driver, hosting(site) as url:
        driver.get(f"{url}/speed.html")
        driver.find_element("id", "begin").click()
        wait_for(lambda: driver.find_element("id", "state").text == "Done.", 60)
        rows = [row.text for row in driver.find_elements("css selector", "#speeds tr")]
        assert "the browser offers no GPU" in rows[1]
