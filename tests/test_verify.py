import numpy as np
import pytest

from encoder.codec.decoder import ReferenceDecoder
from encoder.codec.errors import SettingsError
from encoder.media.quality import psnr_db
from encoder.media.video import Video
from export.engines import open_engine
from export.verify import verify


@pytest.fixture
def engine(tiny_clip):
    engine = open_engine(tiny_clip, "onnxruntime-cpu", batch=4, pixels="rgb")
    yield engine
    engine.close()


@pytest.fixture
def source(tiny_clip):
    decoded = np.stack(list(ReferenceDecoder(tiny_clip).frames()))
    return Video(np.where(decoded < 250, decoded + 5, decoded), tiny_clip.header.rate)


def test_engine_that_decodes_as_the_reference_does_holds(tiny_clip, engine, source):
    shares = []
    (verdict,) = verify(tiny_clip, [engine], source=source, report=shares.append)
    assert (verdict.engine, verdict.precision, verdict.frames) == ("onnxruntime-cpu", "fp32", 6)
    assert verdict.largest_difference <= verdict.tolerance == 1
    assert verdict.psnr_between_db > 60
    assert verdict.holds
    expected = [psnr_db(a, b) for a, b in zip(ReferenceDecoder(tiny_clip).frames(), source.frames, strict=True)]
    assert verdict.reference_psnr_db == pytest.approx(np.mean(expected))
    assert verdict.psnr_db == pytest.approx(verdict.reference_psnr_db, abs=0.1)
    assert shares == [4, 6]


def test_one_wrong_pixel_is_found(tiny_clip, engine):
    decode = engine.frames

    def wrong(times):
        frames = decode(times)
        frames[times == 5, 1, 2, 3] ^= 64
        return frames

    engine.frames = wrong
    (verdict,) = verify(tiny_clip, [engine], report=lambda _: None)
    assert 63 <= verdict.largest_difference <= 65
    assert not verdict.holds
    assert verdict.psnr_db is None
    (verdict,) = verify(tiny_clip, [engine], tolerance=65, report=lambda _: None)
    assert verdict.holds


def test_source_of_another_length(tiny_clip, engine, source):
    short = Video(source.frames[:5], source.rate)
    with pytest.raises(SettingsError, match="the clip has 6 frames, the source 5"):
        verify(tiny_clip, [engine], source=short, report=lambda _: None)
