"""Beeps of a source: where they are in the clip, and in the files that are made of it."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.resampler import AudioResampler
from beeps import SECONDS, beeps, write_beeps

import encoder
from encoder.cli.main import main as encoder_main
from encoder.codec.clip import Clip
from encoder.codec.sound import RATE
from encoder.common.errors import SettingsError, SourceError
from encoder.media.sound import read_sound
from encoder.media.sound_choice import parse_choice
from encoder.media.source import Source
from player.cli.main import main as player_main

NASA = Path(__file__).parents[3] / "shared" / "data" / "nasa_13013.mp4"


def heard(sound):
    """Return the samples (N, channels) that are heard of a clip's sound."""
    decoder = av.CodecContext.create("opus", "r")
    decoder.sample_rate = RATE
    decoder.layout = "mono" if sound.format.channels == 1 else "stereo"
    resampler = AudioResampler(format="flt", layout=decoder.layout.name, rate=RATE)
    made = [
        samples.to_ndarray().reshape(-1, sound.format.channels)
        for number in range(sound.stop)
        for frame in decoder.decode(av.Packet(sound.packet(number)))
        for samples in resampler.resample(frame)
    ]
    return np.concatenate(made)[sound.format.delay :]


SKEW = 0.012
"""Seconds by which a beep may be off: encoders of MP2 are 10.9 ms late in AVI."""


def read(path, audio=None, track=None):
    return read_sound(Source(path), parse_choice(audio, track))


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("a.mkv", "pcm_s16le", 48000, "stereo"),
        ("a.mkv", "pcm_s16le", 8000, "mono"),
        ("a.mkv", "pcm_s16le", 48000, "5.1"),
        ("a.ts", "mp2", 44100, "mono"),
        ("a.ts", "mp2", 48000, "stereo"),
        ("a.avi", "mp2", 44100, "stereo"),
    ],
)
def test_beeps_are_where_the_flashes_are(tmp_path, name, codec, rate, layout):
    sound = read(write_beeps(tmp_path / name, rate=rate, layout=layout, codec=codec))
    assert sound.format.channels == (1 if layout == "mono" else 2)
    assert beeps(heard(sound)) == pytest.approx([0, 1, 2], abs=SKEW)
    assert len(heard(sound)) / RATE == pytest.approx(SECONDS, abs=0.03)
    assert np.abs(heard(sound)).max() < 1.01  # 5.1 is mixed down without clipping


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"start": 0.5}, [1, 2]),
        ({"start": 1.25}, [2]),
        ({"holes": [(0.3, 0.8)]}, [0, 1, 2]),
        ({"holes": [(0.3, 1.5)]}, [0, 2]),
        ({"holes": [(1.3, 9)]}, [0, 1]),
        ({"video_at": 7.0}, [0, 1, 2]),
    ],
)
def test_sound_that_starts_late_or_has_gaps_stays_in_time(tmp_path, options, expected):
    sound = read(write_beeps(tmp_path / "a.mkv", **options))
    assert beeps(heard(sound)) == pytest.approx(expected, abs=SKEW)
    assert len(heard(sound)) / RATE == pytest.approx(SECONDS, abs=0.03)


def test_sound_before_the_first_picture_is_not_heard(tmp_path):
    path = write_beeps(tmp_path / "a.mkv")
    with av.open(path) as source, av.open(tmp_path / "b.mkv", "w") as container:
        streams = {each.index: container.add_stream_from_template(each) for each in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "video" and packet.pts * packet.time_base < Fraction(1, 2):
                continue
            packet.stream = streams[packet.stream_index]
            container.mux(packet)
    first = Source(tmp_path / "b.mkv")
    sound = read_sound(first, parse_choice(None, None))
    shift = SECONDS - first.count / first.rate
    assert beeps(heard(sound)) == pytest.approx([1 - shift, 2 - shift], abs=SKEW)


def test_opus_is_copied_and_can_be_encoded_anew(tmp_path):
    path = write_beeps(
        tmp_path / "a.mkv", codec="libopus", options={"frame_duration": "20"}, language="fre"
    )
    with av.open(path) as container:
        own = [bytes(packet) for packet in container.demux(container.streams.audio[0])]
    copied = read(path)
    assert copied.packet(0) in own
    assert [copied.packet(number) for number in range(100)] == own[:100]
    assert copied.format.language == "fre"
    assert beeps(heard(copied)) == pytest.approx([0, 1, 2], abs=SKEW)
    again = read(path, "16k")
    assert again.packet(20) not in own
    assert again.file_bytes < copied.file_bytes
    assert beeps(heard(again)) == pytest.approx([0, 1, 2], abs=SKEW)
    assert read(path, "copy") == copied


def test_opus_with_gaps_or_long_packets_is_encoded_anew(tmp_path):
    for name, options in (
        ("gap.mkv", {"holes": [(0.3, 0.8)]}),
        ("long.mkv", {"options": {"frame_duration": "60"}}),
    ):
        path = write_beeps(tmp_path / name, codec="libopus", **options)
        assert beeps(heard(read(path))) == pytest.approx([0, 1, 2], abs=SKEW)
        with pytest.raises(SourceError, match="cannot be copied"):
            read(path, "copy")


def test_rates_are_about_those_that_are_asked_for(tmp_path):
    path = tmp_path / "noise.mkv"
    write_beeps(path)
    for audio in ("16k", "96k"):
        sound = read(path, audio)
        assert sound.file_bytes * 8 / SECONDS < 1.3 * float(audio[:-1]) * 1000
    assert read(path, "96k").file_bytes > read(path, "16k").file_bytes


def test_pictures_without_sound_have_none(write_video, tmp_path):
    silent = write_video(np.zeros((3, 3, 36, 64), np.uint8))
    assert read(silent) is None
    with pytest.raises(SourceError, match="no audio track 1"):
        read(silent, None, 1)
    with pytest.raises(SourceError, match="no sound"):
        read(silent, "copy")
    (tmp_path / "folder").mkdir()
    av.VideoFrame(32, 32, "rgb24").save(tmp_path / "folder" / "0.png")
    assert read(tmp_path / "folder") is None


@pytest.mark.parametrize("audio", ["5k", "300k", "loud", "-1", "48 k", "nan"])
def test_other_choices_are_refused(audio):
    with pytest.raises(SettingsError, match="sound is none, copy"):
        parse_choice(audio, None)


def test_tracks_count_from_0():
    with pytest.raises(SettingsError, match="count from 0"):
        parse_choice(None, -1)
    assert parse_choice("none", None) is None


def test_sound_goes_through_all_commands(tmp_path, capsys, caplog):
    """Fit, show the facts, measure, and decode into videos whose beeps are at the flashes."""
    source = write_beeps(tmp_path / "a.mkv", language="eng")
    clip = tmp_path / "a.nerv"
    fit = ["fit", str(source), "-o", str(clip), "--epochs", "1", "--size", "XS"]
    assert encoder_main([*fit, "--segment-frames", "25"]) == 0
    capsys.readouterr()
    assert encoder_main(["info", str(clip), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["audio"] == "Opus, stereo"
    assert facts["audio_language"] == "eng"
    assert len(Clip.read(clip).sound.parts) == 3
    assert encoder_main(["evaluate", str(clip), str(source), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["audio_bytes"] == facts["audio_bytes"] > 1000
    picture = figures["file_bytes"] - Clip.read(clip).extra_bytes
    assert figures["picture_bits_per_pixel"] == pytest.approx(8 * picture / (32 * 32 * 75))
    for name in ("out.mkv", "out.mp4", "out.webm"):
        assert player_main(["decode", str(clip), str(tmp_path / name)]) == 0
        assert written(tmp_path / name) == pytest.approx([0, 1, 2], abs=0.01)
    part = ["--frames", "30:60", "--fps", "50"]
    assert player_main(["decode", str(clip), str(tmp_path / "part.mp4"), *part]) == 0
    assert written(tmp_path / "part.mp4") == pytest.approx([0.8], abs=0.01)
    assert player_main(["decode", str(clip), str(tmp_path / "out.y4m")]) == 0
    assert "sound and subtitles are left out" in caplog.text


def written(path):
    """Return the times of the beeps in a video, in seconds after its first picture."""
    with av.open(path) as container:
        (picture,) = [next(container.decode(video=0))]
    with av.open(path) as container:
        stream = container.streams.audio[0]
        resampler = AudioResampler(format="flt", layout="mono", rate=RATE)
        first = None
        made = []
        for frame in container.decode(stream):
            first = frame.time if first is None else first
            made += [each.to_ndarray().reshape(-1, 1) for each in resampler.resample(frame)]
    return [first - picture.time + each for each in beeps(np.concatenate(made))]


def test_clips_of_the_python_interface_have_sound(tmp_path):
    source = write_beeps(tmp_path / "a.mkv")
    clip = encoder.fit(source, epochs=1, size="XS")
    clip.save(tmp_path / "a.nerv")
    assert encoder.open(tmp_path / "a.nerv").sound == clip.sound
    assert beeps(heard(clip.sound)) == pytest.approx([0, 1, 2], abs=SKEW)
    assert encoder.evaluate(clip, source).audio_bytes == clip.sound.file_bytes
    assert encoder.fit(source, epochs=1, size="XS", audio="none").sound is None
    with pytest.raises(SettingsError, match="which sound, subtitles and metadata take"):
        encoder.fit(source, epochs=1, size="XS", file_size="2kB")


def test_a_wanted_size_includes_the_sound(tmp_path):
    source = write_beeps(tmp_path / "a.mkv")
    clip = tmp_path / "a.nerv"
    fit = ["fit", str(source), "-o", str(clip), "--epochs", "30", "--size", "XS"]
    assert encoder_main([*fit, "--file-size", "14kB", "--audio", "16k"]) == 0
    assert clip.stat().st_size == pytest.approx(14000, rel=0.1)
    assert Clip.read(clip).sound.file_bytes > 2000
    assert "--audio 16k" in Clip.read(clip).header.settings
    assert encoder_main([*fit, "--audio", "none"]) == 0
    assert Clip.read(clip).sound is None
    assert encoder_main([*fit, "--audio-track", "3"]) == 2


@pytest.mark.parametrize("codec", ["pcm_s16le", "libopus"])
def test_a_film_has_no_more_sound_than_a_clip_can_hold(tmp_path, monkeypatch, codec):
    monkeypatch.setattr("encoder.media.samples.MAX_PACKETS", 60)
    source = write_beeps(tmp_path / "a.mkv", codec=codec)
    sound = read(source)
    assert 50 <= sound.stop <= 60
    assert beeps(heard(sound)) == pytest.approx([0, 1], abs=SKEW)


@pytest.mark.skipif(not NASA.exists(), reason="no such clip here")
def test_other_tracks_of_a_film_can_be_chosen():
    first, second = read(NASA), read(NASA, None, 1)
    assert first.format.language == second.format.language == "eng"
    assert [first.packet(each) for each in range(50)] != [second.packet(each) for each in range(50)]
