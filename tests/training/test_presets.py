import numpy as np
import pytest
import torch

from encoder.common.errors import SettingsError
from encoder.config import SIZES
from encoder.models.base import VideoShape
from encoder.models.hnerv import STRIDES as HNERV_STRIDES
from encoder.models.hnerv import hnerv_config
from encoder.models.hnerv_boost import Boost, BoostConfig
from encoder.models.nerv import STRIDES as NERV_STRIDES
from encoder.models.sizing import Layout, halved, largest, layout, narrowed, parameters, share
from encoder.presets import (
    BOOST_FULL_HD,
    ENERV_PARAMETERS,
    HNERV_FULL_HD,
    HNERV_PARAMETERS,
    PRESETS,
    complexity,
    find_preset,
)

HD = VideoShape(height=720, width=1280, frames=132)
BUNNY = VideoShape(height=640, width=1280, frames=132)
FULL_HD = VideoShape(height=1080, width=1920, frames=600)


def millions(preset, shape=HD):
    return [complexity(PRESETS[preset], size, shape).parameters / 1e6 for size in SIZES]


@pytest.mark.parametrize(
    ("preset", "published"),
    [("nerv", [1.67, 3.20, 6.28, 12.52]), ("nerv++", [1.70, 3.17, 6.16, 12.27])],
)
def test_parameters_are_the_published_ones(preset, published):
    assert millions(preset) == pytest.approx(published, abs=0.006)


def mean_macs(preset):
    return np.mean([complexity(PRESETS[preset], size, HD).macs_per_pixel for size in SIZES])


def test_multiplications_have_the_published_ratios():
    """NeRV++, table 3."""
    assert mean_macs("nerv++") / mean_macs("nerv") == pytest.approx(0.9226, abs=0.001)
    assert mean_macs("nerv*++") / mean_macs("nerv++") == pytest.approx(1.431, abs=0.002)


def test_nerv_star_has_the_published_parameters():
    """NeRV++, table 3: the mean of its four sizes."""
    assert np.mean(millions("nerv*++")) == pytest.approx(6.07, abs=0.01)


@pytest.mark.parametrize(
    ("parameters", "stem"), [(0.35e6, 32), (0.75e6, 48), (1.5e6, 68), (3e6, 97)]
)
def test_hnerv_has_the_published_widths(parameters, stem):
    """HNeRV, table 17."""
    config = hnerv_config(VideoShape(height=640, width=1280, frames=132), parameters=parameters)
    assert config.layout == Layout(strides=(5, 4, 4, 2, 2), grid=(2, 4))
    assert config.channels[0] == stem


@pytest.mark.parametrize(
    ("height", "width", "strides", "stem"),
    [(480, 960, (5, 4, 3, 2, 2), 110), (960, 1920, (5, 4, 4, 3, 2), 92)],
)
def test_hnerv_has_the_published_strides(height, width, strides, stem):
    config = hnerv_config(VideoShape(height=height, width=width, frames=132), parameters=3e6)
    assert (config.layout.strides, config.channels[0]) == (strides, stem)


def test_hnerv_has_the_parameters_of_the_published_checkpoint():
    """Its weights, and the numbers of its feature maps."""
    assert complexity(PRESETS["hnerv"], "M", BUNNY).parameters == 1_488_276 + 16_896


@pytest.mark.parametrize("preset", ["hnerv", "rc-hnerv", "hnerv-boost", "e-nerv"])
def test_parameters_are_near_those_that_name_the_size(preset):
    """HNeRV's code counts a stem of 3x3 kernels, so its smallest network is smaller than its name."""
    sizes, named = (
        (SIZES, ENERV_PARAMETERS) if preset == "e-nerv" else (SIZES[1:], HNERV_PARAMETERS)
    )
    found = [complexity(PRESETS[preset], size, BUNNY).parameters for size in sizes]
    assert found == pytest.approx([named[size] for size in sizes], rel=0.05)


@pytest.mark.parametrize(
    ("shape", "stem", "published"),
    [(HD, 50, 0.75e6), (HD, 86, 1.5e6), (HD, 134, 3e6), (FULL_HD, 95, 3.05e6)],
)
def test_boost_has_the_published_parameters(shape, stem, published):
    """Stems are those that the code's size options for Bunny and UVG come to."""
    config = BoostConfig(
        height=shape.height, width=shape.width, frames=shape.frames, stem_channels=stem
    )
    assert parameters(lambda: Boost(config)) == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize("preset", ["hnerv", "hnerv-boost"])
def test_full_hd_has_the_sizes_published_for_it(preset):
    budget = BOOST_FULL_HD if preset == "hnerv-boost" else HNERV_FULL_HD
    found = [complexity(PRESETS[preset], size, FULL_HD).parameters for size in SIZES[1:]]
    assert found == pytest.approx([budget[size] for size in SIZES[1:]], rel=0.05)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("fast", "nirvana")])
def test_sizes_follow_the_pixels(preset):
    """A frame of a quarter of the pixels has about a quarter of the parameters, as far as widths can be so small."""
    found, half = (
        complexity(PRESETS[preset], "L", shape).parameters
        for shape in (HD, VideoShape(height=360, width=640, frames=132))
    )
    assert half == pytest.approx(found / 4, rel=0.25)


@pytest.mark.parametrize(("size", "giga"), [("S", 230), ("M", 245), ("L", 285)])
def test_enerv_has_the_published_multiplications(size, giga):
    """HiNeRV, table 1: for a frame of 1920x1080."""
    found = complexity(PRESETS["e-nerv"], size, FULL_HD).macs_per_pixel * 1080 * 1920 / 1e9
    assert found == pytest.approx(giga, rel=0.03)


@pytest.mark.parametrize(("preset", "thousands"), [("nerv", 110.0), ("nerv++", 101.5)])
def test_multiplications_are_those_published(preset, thousands):
    assert mean_macs(preset) / 1000 == pytest.approx(thousands, rel=0.01)


@pytest.mark.parametrize(
    "shape", [HD, BUNNY, FULL_HD, VideoShape(height=180, width=320, frames=132)]
)
@pytest.mark.parametrize("preset", PRESETS)
def test_sizes_grow(preset, shape):
    found = millions(preset, shape)
    assert sorted(found) == found
    assert len(set(found)) == len(SIZES)


@pytest.mark.parametrize(
    ("height", "width"), [(2, 2), (18, 30), (48, 64), (144, 176), (180, 320), (202, 302)]
)
@pytest.mark.parametrize("preset", PRESETS)
def test_frames_of_any_size(preset, height, width):
    network = PRESETS[preset].network(VideoShape(height=height, width=width, frames=3), "XS")
    with torch.no_grad():
        frames = network(torch.tensor([0.0, 2.0]))
    assert frames.shape[:2] == (2, 3)
    assert frames.shape[2] >= height
    assert frames.shape[3] >= width
    assert frames.shape[2] * frames.shape[3] < 2.2 * height * width + 2000


def test_layout_pads_little_and_has_a_grid_of_the_wanted_size():
    choices = [(5, 2), (5, 2, 2), (5, 4, 2, 2)]
    assert layout(720, 1280, choices=choices, cells=16) == Layout(
        strides=(5, 4, 2, 2), grid=(9, 16)
    )
    assert layout(180, 320, choices=choices, cells=16) == Layout(strides=(5, 2, 2), grid=(9, 16))
    assert layout(181, 320, choices=choices, cells=16).canvas == (200, 320)


@pytest.mark.parametrize("size", [(360, 640), (540, 960), (1080, 1920), (270, 480), (180, 320)])
@pytest.mark.parametrize("choices", [(NERV_STRIDES, 16), (HNERV_STRIDES, 4)])
def test_common_sizes_are_padded_little(size, choices):
    strides, cells = choices
    canvas = layout(*size, choices=strides, cells=cells).canvas
    assert canvas[0] * canvas[1] <= 1.15 * size[0] * size[1]


def test_smaller_frames_have_narrower_networks():
    assert [
        share(height, width) for height, width in ((1080, 1920), (720, 1280), (640, 360), (90, 160))
    ] == [1, 1, 0.5, 0.125]
    assert [narrowed(channels, 0.25) for channels in (96, 26, 8)] == [24, 6, 2]


def test_channels_are_halved_down_to_a_floor():
    assert halved(112, 4, 96) == (112, 96, 96, 96)
    assert halved(400, 4, 80) == (400, 200, 100, 80)


@pytest.mark.parametrize(("budget", "found"), [(100.0, 10), (99.0, 9), (0.0, 3)])
def test_largest_within_a_budget(budget, found):
    assert largest(lambda number: number**2, budget, lowest=3) == found


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(SettingsError, match=r"unknown preset 'x', known are: fast, nerv, e-nerv"):
        find_preset("x")
