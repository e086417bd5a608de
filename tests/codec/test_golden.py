import hashlib
import json

import numpy as np
import pytest
from golden import DATA, TIMES, digest, pictures
from stranger import (
    FORMAT,
    strangers_decays,
    strangers_facts,
    strangers_pictures,
    strangers_sound,
    strangers_subtitles,
    strangers_weights,
)

from encoder.codec import tensor_header
from encoder.codec.clip import Clip
from encoder.codec.coder import HUFFMAN, PLAIN, RANGE
from encoder.codec.entropy import DECAYS
from encoder.codec.topology import OPERATORS, dictionary

DIGESTS = json.loads((DATA / "digests.json").read_text())
SOUNDS = {
    "v1-sound": "5ba9c03719f8ffb2ba4d71f4d6c49cca94524975618e8bdf87fc4394b490c3d0",
    "v2-sound": "5ba9c03719f8ffb2ba4d71f4d6c49cca94524975618e8bdf87fc4394b490c3d0",
}
"""Digests of the packets of sound."""


@pytest.mark.parametrize("name", DIGESTS)
def test_golden_files_decode_as_ever(name):
    clip = Clip.read(DATA / f"{name}.nerv")
    assert digest(clip) == DIGESTS[name]
    expected = np.load(DATA / f"{name}.npy")
    assert np.abs(pictures(clip).astype(int) - expected).max() <= 1
    assert np.ptp(expected) > 100  # there is something to see
    assert bytes(clip) == (DATA / f"{name}.nerv").read_bytes()


@pytest.mark.parametrize("name", DIGESTS)
def test_golden_files_decode_by_the_format_alone(name):
    clip = Clip.read(DATA / f"{name}.nerv")
    weights = {}
    for segment, expected in zip(clip.segments, DIGESTS[name], strict=True):
        weights = dict(strangers_weights(bytes(segment), clip.topology.tensors, weights))
        assert (
            hashlib.sha256(
                b"".join(x.astype("<f4").tobytes() for x in weights.values())
            ).hexdigest()
            == expected
        )


@pytest.mark.parametrize("name", DIGESTS)
def test_golden_files_are_shown_by_the_format_alone(name):
    shown = strangers_pictures((DATA / f"{name}.nerv").read_bytes(), TIMES)
    assert np.abs(shown.astype(int) - np.load(DATA / f"{name}.npy")).max() <= 1


@pytest.mark.parametrize(("name", "digest"), SOUNDS.items())
def test_golden_sound_is_read_as_ever_and_by_the_format_alone(name, digest):
    data = (DATA / f"{name}.nerv").read_bytes()
    sound = Clip.parse(data).sound
    form, packets = strangers_sound(data)
    assert form == (sound.format.channels, sound.format.delay, sound.format.language)
    assert form == (1, 312, "en")
    assert [packets.get(number) for number in range(40)] == [sound.packet(n) for n in range(40)]
    assert [number for number in range(sound.stop) if number not in packets] == [5]
    assert hashlib.sha256(b"".join(packets.values())).hexdigest() == digest


@pytest.mark.parametrize("name", ["v1-subtitles", "v2-subtitles"])
def test_golden_subtitles_are_read_as_ever_and_by_the_format_alone(name):
    data = (DATA / f"{name}.nerv").read_bytes()
    extras = Clip.parse(data).extras
    tracks = [
        (track.language, track.title, [(cue.start, cue.stop, cue.text) for cue in track.cues])
        for track in extras.subtitles
    ]
    assert tracks == strangers_subtitles(data)
    assert [(language, len(cues)) for language, _, cues in tracks] == [("en", 3), ("de", 1)]
    assert tracks[0][2][1] == (150, 420, "<i>Two</i>\nlines")
    about = extras.about
    told = [(1, about.title), (2, about.language), (3, about.date)]
    told += [(4, (chapter.start, chapter.title)) for chapter in about.chapters]
    assert told == strangers_facts(data)
    assert told[3:] == [(4, (0, "Begin")), (4, (320, "Ende – gut"))]  # noqa: RUF001


def test_table_is_the_one_of_the_format():
    assert strangers_decays() == list(DECAYS)


def test_golden_files_use_all_that_the_format_has():
    clips = [Clip.read(DATA / f"{name}.nerv") for name in DIGESTS]
    segments = [segment for clip in clips for segment in clip.segments]
    flags = [record.flags for segment in segments for record in segment.tensors]
    for flag in (
        tensor_header.DELTA,
        tensor_header.PREDICTED,
        tensor_header.ROWS,
        tensor_header.COLUMNS,
        tensor_header.PAIRS,
        tensor_header.CHANNELS,
        tensor_header.SECOND,
        tensor_header.CONTEXT,
    ):
        assert any(each & flag for each in flags)
    assert {segment.coder for segment in segments} == {PLAIN, HUFFMAN, RANGE}
    assert {clip.topology.version for clip in clips} == {1, 2}


@pytest.mark.parametrize("version", [1, 2])
def test_dictionary_is_the_one_of_the_format(version):
    name, data = f"encoder/codec/dictionary{version}.bin", dictionary(version)
    digest = hashlib.sha256(data).hexdigest()
    assert f"| {version} | `{name}` | {len(data)} | `{digest}` |" in FORMAT.read_text()


def test_operators_are_those_of_the_format():
    text = FORMAT.read_text()
    listed = text[text.index("The operators are:") :].split("```")[1].removeprefix("text")
    assert set(listed.split()) == OPERATORS
