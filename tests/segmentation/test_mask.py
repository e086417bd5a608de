from fractions import Fraction

import av
import numpy as np
import pytest
from helpers import make_encoder, moving_square, panning

from encoder.common.errors import SettingsError
from encoder.compare.evaluation import qualities
from encoder.config import Budget
from encoder.media.metrics import psnr_db
from encoder.media.video import Video
from encoder.segmentation.mask import GREY, Masked, read_mask

VIDEO = Video(moving_square(3, 24, 32), Fraction(25))


def write(path, picture):
    """Write a picture (H, W) of 0 and 255."""
    frame = av.VideoFrame.from_ndarray(np.repeat(picture[..., None], 3, 2), format="rgb24")
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png")
        stream.height, stream.width = picture.shape
        stream.pix_fmt = "rgb24"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def square(at=8):
    picture = np.zeros((24, 32), np.uint8)
    picture[at : at + 8, at : at + 8] = 255
    return picture


def test_one_picture_is_for_all_frames(tmp_path):
    write(tmp_path / "mask.png", square())
    mask = read_mask(tmp_path / "mask.png", VIDEO).mask(range(3))
    assert mask.shape == (3, 24, 32)
    assert np.array_equal(mask, np.repeat(square()[None] > 0, 3, 0))


def test_folder_has_a_picture_for_each_frame(tmp_path):
    for index in range(3):
        write(tmp_path / f"{index}.png", square(4 * index))
    assert np.array_equal(
        read_mask(tmp_path, VIDEO).mask(range(3)),
        np.stack([square(4 * index) > 0 for index in range(3)]),
    )


def test_another_number_of_pictures(tmp_path):
    for index in range(2):
        write(tmp_path / f"{index}.png", square())
    with pytest.raises(SettingsError, match=r"a mask has 1 or 3 pictures, .* has 2"):
        read_mask(tmp_path, VIDEO)


def test_mask_of_everything(tmp_path):
    write(tmp_path / "mask.png", np.full((24, 32), 255, np.uint8))
    with pytest.raises(SettingsError, match="leaves nothing of a frame"):
        read_mask(tmp_path / "mask.png", VIDEO)


def test_nothing_masked_is_left_in_the_video():
    mask = square() > 0
    hidden = Masked(VIDEO, Video(np.repeat(square()[None, None], 3, 1), VIDEO.rate)).read(range(3))
    assert (hidden[:, :, mask] == GREY).all()
    assert np.array_equal(hidden[:, :, ~mask], VIDEO.frames[:, :, ~mask])


def centre():
    mask = np.zeros((12, 48, 64), bool)
    mask[:, 18:30, 24:40] = True
    return mask


def scattered():
    """Five boxes of a tenth of a frame's sides, at the same places of all frames."""
    mask = np.zeros((12, 48, 64), bool)
    for row, column in np.random.default_rng(0).integers((0, 0), (43, 58), (5, 2)):
        mask[:, row : row + 5, column : column + 6] = True
    return mask


def hide(video, mask):
    return Masked(video, Video(np.repeat(255 * mask[:, None].astype(np.uint8), 3, 1), video.rate))


def fit(preset, video, mask, epochs=80):
    encoder = make_encoder(hide(video, mask), preset, size="L")
    list(encoder.run(Budget(epochs=epochs)))
    return encoder.clip()


@pytest.mark.soak
@pytest.mark.parametrize(
    ("make", "preset", "gain_db"),
    [
        (centre, "fast", 5),
        (scattered, "fast", 5),
        (centre, "hnerv", 0.5),
        (scattered, "hnerv", 0.5),
    ],
)
def test_what_is_masked_is_filled(preset, gain_db, make):
    """What one frame lacks is seen in others, since the picture moves; but the middle of the centre is never seen."""
    video, mask = Video(panning(12, 48, 64), Fraction(25)), make()
    clip = fit(preset, video, mask)
    filled = np.mean(
        [quality.psnr_masked_db for quality in qualities(clip, video, hide(video, mask))]
    )
    hidden = hide(video, mask).read(range(12))
    grey = np.mean(
        [psnr_db(a[:, m], b[:, m]) for a, b, m in zip(hidden, video.frames, mask, strict=True)]
    )
    assert filled > grey + gain_db


def test_what_is_masked_cannot_matter():
    video, mask = Video(panning(12, 48, 64), Fraction(25)), scattered()
    spoiled = Video(np.where(mask[:, None], 255 - video.frames, video.frames), video.rate)
    assert bytes(fit("fast", spoiled, mask, epochs=20)) == bytes(
        fit("fast", video, mask, epochs=20)
    )
