import pytest
import torch
import torch.nn.functional as F
from helpers import panning

from encoder.models.base import VideoShape
from encoder.models.camera import Camera
from encoder.models.e_nerv import TransformerBlock
from encoder.models.hnerv import Thumbnails
from encoder.models.hnerv_boost import ConditionedBlock
from encoder.models.hnerv_encoder import ConvNextEncoder
from encoder.models.layers import (
    PARTS,
    PositionalEncoding,
    SeparableBlock,
    StillGrid,
    TemporalGrid,
    UpsamplingBlock,
    planes,
)
from encoder.models.nerv import NervConfig
from encoder.models.nirvana import Nirvana, NirvanaConfig
from encoder.presets import PRESETS


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("levels", [40, 80])
def test_positional_encoding_is_that_of_the_paper_at_frames(levels):
    frames = 132
    encoding = PositionalEncoding(base=1.25, levels=levels, count=frames)(
        torch.arange(float(frames))
    )
    times = torch.arange(frames, dtype=torch.float64) / frames
    phases = torch.pi * 1.25 ** torch.arange(levels, dtype=torch.float64) * times[:, None]
    expected = torch.cat([phases.sin(), phases.cos()], dim=1)
    assert (encoding - expected).abs().max() < torch.pi / PARTS


def test_positional_encoding_changes_slowly_between_frames():
    encoding = PositionalEncoding(base=1.25, levels=80, count=132)
    assert encoding.frequencies.abs().max() <= 1  # half turns from one to the next


def test_temporal_grid_interpolates_between_its_rows():
    grid = TemporalGrid(frames=9, period=4, shape=(2, 3, 5))
    assert grid.values.shape == (3, 2, 3, 5)
    latents = grid(torch.tensor([0.0, 4.0, 5.0, 8.0, 99.0]))
    expected = torch.stack(
        [
            grid.values[0],
            grid.values[1],
            grid.values[1].lerp(grid.values[2], 0.25),
            *[grid.values[2]] * 2,
        ]
    )
    torch.testing.assert_close(latents, expected)


def test_temporal_grid_of_a_single_frame():
    grid = TemporalGrid(frames=1, period=1, shape=(1, 1, 1))
    torch.testing.assert_close(grid(torch.zeros(1)), grid.values[:1])


def test_still_grid_is_the_same_at_all_times():
    grid = StillGrid(shape=(2, 3, 5))
    assert torch.equal(grid(torch.tensor([0.0, 7.0])), grid.values)


def ramps(height, width):
    """Return a canvas (1, 2, H, W) whose values are the numbers of column and row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows])[None].float()


def test_camera_that_stands_still_shows_the_middle_of_the_canvas():
    camera = Camera(frames=3, size=(4, 6), canvas=(8, 12))
    torch.testing.assert_close(camera(ramps(8, 12), torch.zeros(1)), ramps(8, 12)[..., 2:6, 3:9])


def test_camera_moves_by_pixels_and_stretches_between_corners():
    camera = Camera(frames=2, size=(5, 9), canvas=(15, 19))
    shift = torch.zeros(2, 2, 2, 2)
    shift[1, 0], shift[1, 1] = 1.5, -2.0
    shift[1, 0, :, 1] += 2  # the right side
    camera.aim(shift)
    (frame,) = camera(ramps(15, 19), torch.tensor([1.0]))
    torch.testing.assert_close(frame[0, 0], 5 + 1.5 + torch.arange(9) * 1.25)
    torch.testing.assert_close(frame[1, :, 0], 5 - 2.0 + torch.arange(5))
    halfway = camera(ramps(15, 19), torch.tensor([0.5]))
    torch.testing.assert_close(halfway[0, 1, :, 0], 5 - 1.0 + torch.arange(5))


def test_camera_of_a_shorter_segment_stays_at_the_end():
    camera = Camera(frames=3, size=(4, 6), canvas=(8, 12))
    camera.aim(torch.full((2, 2, 2, 2), 1.03))
    assert torch.equal(camera.displacements.values, torch.full((3, 2, 2, 2), 1.0))


def test_separable_block_is_a_residual():
    block = SeparableBlock(4, torch.sin)
    torch.nn.init.zeros_(block.pointwise2.weight)
    torch.nn.init.zeros_(block.pointwise2.bias)
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(block(x), x)


def test_upsampling_block_adds_the_upsampled_projection():
    block = UpsamplingBlock(6, 4, 3, activation=torch.sin, shuffle_activation=torch.sin)
    for part in (block.expand, block.after[0].pointwise2):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    x = torch.randn(2, 6, 5, 7)
    expected = torch.nn.functional.interpolate(block.project(x), scale_factor=3.0, mode="bilinear")
    torch.testing.assert_close(block(x), expected)


def test_nerv_starts_from_a_small_grid():
    config = NervConfig(height=720, width=1280, frames=132)
    assert (config.layout.strides, config.layout.grid, config.stem_widths) == (
        (5, 2, 2, 2, 2),
        (9, 16),
        (512, 26),
    )


@pytest.mark.parametrize(
    ("size", "strides"),
    [((1080, 1920), (5, 3, 2, 2, 2)), ((180, 320), (5, 2, 2)), ((144, 176), (5, 2))],
)
def test_nerv_strides_follow_the_frame(size, strides):
    assert NervConfig(height=size[0], width=size[1], frames=1).layout.strides == strides


def test_transformer_block_mixes_tokens():
    block = TransformerBlock(8, heads=2, head=4)
    x = torch.randn(1, 5, 8)
    changed = x.clone()
    changed[:, 0] += 1
    assert (block(x) - block(changed))[:, 1:].abs().max() > 1e-4


def test_conditioned_block_follows_the_time():
    block = ConditionedBlock(6, 32)
    x, condition = torch.randn(1, 6, 4, 5), torch.randn(2, 32, 1, 1)
    assert (
        block(x.expand(2, -1, -1, -1), condition)[0].sub(block(x, condition[1:])[0]).abs().max()
        > 1e-4
    )


def test_thumbnails_are_small_pictures_of_the_frames():
    frames = torch.from_numpy(panning(3, 250, 380))
    thumbnails = Thumbnails(frames=3, canvas=(256, 384))
    thumbnails.take(frames)
    pictures = thumbnails(torch.tensor([0.0, 2.0])) * 255
    assert thumbnails.pixels.values.shape == (3, 3, 2, 3)
    assert pictures.shape == (2, 3, 256, 384)
    assert (pictures.mean((2, 3)) - frames[[0, 2]].float().mean((2, 3))).abs().max() < 10
    values = thumbnails.pixels.values * 16 + 128
    assert torch.equal(values, values.round())


def test_nirvana_makes_each_frame_of_its_group():
    network = Nirvana(NirvanaConfig(height=40, width=70, frames=3, hidden=32))
    frames = network(torch.tensor([0.0, 0.4, 0.6, 2.0, 9.0]))
    assert frames.shape == (5, 3, 64, 96)
    assert torch.equal(frames[0], frames[1])
    assert torch.equal(frames[3], frames[4])
    assert (frames[0] - frames[2]).abs().max() > 1e-4


def test_frame_encoder_reduces_frames_to_the_grid():
    encoder = ConvNextEncoder(channels=16, strides=(5, 4, 2), canvas=(80, 120))
    assert encoder(torch.rand(2, 3, 78, 115)).shape == (2, 16, 2, 3)


def test_fast_is_small_and_does_its_work_at_a_quarter_of_the_resolution():
    network = PRESETS["fast"].network(VideoShape(height=180, width=320, frames=132), "S")
    weights = count(network) - sum(x.numel() for x in network.latent_parameters())
    assert 8_000 < weights < 10_000
    assert network.features(torch.zeros(1)).shape == (1, 32, 48, 80)


@pytest.mark.parametrize("margin", [None, (2, 7)])
@pytest.mark.parametrize(("height", "width"), [(18, 32), (19, 33), (50, 20), (1, 1)])
def test_fast_covers_any_size(height, width, margin):
    shape = VideoShape(height=height + height % 2, width=width + width % 2, frames=5, margin=margin)
    frames = PRESETS["fast"].network(shape, "S")(torch.tensor([0.0, 1.5, 4.0]))
    assert frames.shape[:2] == (3, 3)
    # 4:2:0 pictures need even sizes.
    assert frames.shape[2] >= height + height % 2
    assert frames.shape[3] >= width + width % 2
    # Bicubic samples and the colours go beyond the range a little, and decoders clip them.
    assert -0.2 < frames.min() <= frames.max() < 1.2


@pytest.mark.parametrize("name", PRESETS)
def test_gradients_are_the_same_in_both_memory_formats(name):
    target = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        network = (
            PRESETS[name]
            .network(VideoShape(height=24, width=40, frames=3), "L")
            .to(memory_format=layout)
        )
        (network(torch.tensor([1.0]))[..., :24, :40] - target).square().mean().backward()
        found.append({key: x.grad for key, x in network.named_parameters() if x.grad is not None})
    for key, gradient in found[0].items():
        assert torch.allclose(
            gradient, found[1][key], rtol=1e-3, atol=1e-3 * gradient.abs().max().item()
        ), key


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_planes_are_a_pixel_shuffle_into_whole_planes(form):
    x = torch.randn(2, 48, 3, 5).to(memory_format=form)
    found = planes(x, 4)
    assert torch.equal(found, F.pixel_shuffle(x, 4))
    assert found.is_contiguous()
