import numpy as np
import pytest
import torch

from encoder.segmentation.global_motion import MAX_MARGIN, estimate_motion

HEIGHT, WIDTH = 96, 160


def texture(height: int, width: int) -> torch.Tensor:
    small = torch.from_numpy(
        np.random.default_rng(0).uniform(0, 255, (1, 3, height // 6, width // 6)).astype(np.float32)
    )
    return (
        torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic")
        .clamp(0, 255)[0]
        .byte()
    )


def test_a_pan_is_found_to_a_fraction_of_a_pixel():
    picture = texture(HEIGHT + 40, WIDTH + 40)
    shifts = [(2 * index, index) for index in range(9)]
    frames = torch.stack(
        [picture[:, down : down + HEIGHT, right : right + WIDTH] for right, down in shifts]
    )
    motion = estimate_motion(frames)
    assert motion.shape == (9, 2, 2, 2)
    expected = torch.tensor(shifts, dtype=torch.float32) - torch.tensor(
        [8.0, 4.0]
    )  # the middle of the way
    assert (motion.mean((2, 3)) - expected).abs().max() < 0.5


def test_what_moves_before_a_still_background_is_no_motion_of_the_camera():
    frames = texture(HEIGHT, WIDTH).repeat(9, 1, 1, 1)
    for index in range(9):
        frames[index, :, 30:50, 10 * index : 10 * index + 20] = 255
    assert not estimate_motion(frames).any()


def test_motion_beyond_the_margin_is_left_alone():
    picture = texture(HEIGHT, WIDTH + 160)
    frames = torch.stack([picture[:, :, 20 * index : 20 * index + WIDTH] for index in range(9)])
    assert 2 * MAX_MARGIN * WIDTH < 8 * 20
    assert not estimate_motion(frames).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (40, 30)])
def test_frames_of_any_size(size):
    assert not estimate_motion(torch.zeros(3, 3, *size, dtype=torch.uint8)).any()
