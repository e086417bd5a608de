import numpy as np
import pytest

from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.errors import SettingsError
from encoder.media.metrics import psnr_db
from encoder.media.video import Video
from export.engines.registry import open_engine
from export.verify import verify


@pytest.fixture
def engines(tiny_clip):
    engines = [
        open_engine(tiny_clip, "onnxruntime-cpu", batch=4, pixels=pixels)
        for pixels in ("rgb", "i420")
    ]
    yield engines
    for engine in engines:
        engine.close()


@pytest.fixture
def source(tiny_clip):
    decoded = np.stack(list(ReferenceDecoder(tiny_clip).frames()))
    return Video(np.where(decoded < 250, decoded + 5, decoded), tiny_clip.header.rate)


def test_engine_that_decodes_as_the_reference_does_holds(tiny_clip, engines, source):
    shares = []
    (verdict,) = verify(tiny_clip, [engines], source=source, report=shares.append)
    assert (verdict.engine, verdict.precision, verdict.frames) == ("onnxruntime-cpu", "fp32", 6)
    assert verdict.largest_difference <= verdict.tolerance == 1
    assert verdict.largest_difference_i420 <= 2
    assert verdict.psnr_between_db > 60
    assert verdict.holds
    expected = [
        psnr_db(a, b)
        for a, b in zip(ReferenceDecoder(tiny_clip).frames(), source.frames, strict=True)
    ]
    assert verdict.reference_psnr_db == pytest.approx(np.mean(expected))
    assert verdict.psnr_db == pytest.approx(verdict.reference_psnr_db, abs=0.1)
    assert shares == [4, 6]


def test_one_wrong_pixel_is_found(tiny_clip, engines):
    decode = engines[0].frames

    def wrong(times):
        frames = decode(times)
        frames[times == 5, 1, 2, 3] ^= 64
        return frames

    engines[0].frames = wrong
    (verdict,) = verify(tiny_clip, [engines], report=lambda _: None)
    assert 63 <= verdict.largest_difference <= 65
    assert not verdict.holds
    assert verdict.psnr_db is None
    (verdict,) = verify(tiny_clip, [engines], tolerance=65, report=lambda _: None)
    assert verdict.holds


def test_source_of_another_length(tiny_clip, engines, source):
    short = Video(source.frames[:5], source.rate)
    with pytest.raises(SettingsError, match="the clip has 6 frames, the source 5"):
        verify(tiny_clip, [engines], source=short, report=lambda _: None)


def test_wrong_pixel_of_what_is_played_is_found(tiny_clip, engines):
    decode = engines[1].frames

    def wrong(times):
        frames = decode(times)
        frames[times == 2, -1, 3] += 9
        return frames

    engines[1].frames = wrong
    (verdict,) = verify(tiny_clip, [engines], report=lambda _: None)
    assert verdict.largest_difference <= 1
    assert 7 <= verdict.largest_difference_i420 <= 11
    assert not verdict.holds
