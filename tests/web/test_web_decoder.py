"""The web page's decoder against the reference decoder: golden files, damage, and strangers' files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from chunks import chunked
from fuzz import decode as decode_by_reference
from fuzz import mutate, seeds_and_digests
from golden import DATA, TIMES
from helpers import fit_clip
from told import BROKEN_CUES, BROKEN_DESCRIPTIONS, TOLD
from web_decoder import KERNELS, NODE, web_decoder

from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.presets import PRESETS

DIGESTS = json.loads((DATA / "digests.json").read_text())

pytestmark = pytest.mark.skipif(NODE is None, reason="no Node")


@pytest.fixture(scope="module", params=KERNELS)
def decoder(request):
    with web_decoder(request.param) as running:
        yield running


@pytest.mark.parametrize("name", DIGESTS)
def test_golden_files_decode_bit_exactly(decoder, name):
    found = decoder.decode((DATA / f"{name}.nerv").read_bytes())
    assert (found["outcome"], found["digests"]) == ("decoded", DIGESTS[name])


@pytest.mark.parametrize("name", DIGESTS)
def test_golden_files_are_shown_within_a_step(decoder, name):
    expected = np.load(DATA / f"{name}.npy")
    size = expected.shape[:1:-1]
    shown = decoder.frames((DATA / f"{name}.nerv").read_bytes(), TIMES, size)
    assert np.abs(shown.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("preset", PRESETS)
def test_pictures_of_all_networks_are_within_a_step(decoder, preset):
    clip = fit_clip(preset, frames=5, height=36, width=50)
    times = np.array([0, 2.5, 4])
    shown = decoder.frames(bytes(clip), times, (50, 36))
    assert np.abs(shown.astype(int) - ReferenceDecoder(clip).at(times)).max() <= 1


def test_mutated_files_end_as_with_the_reference(decoder):
    seeds, known = seeds_and_digests()
    random = np.random.default_rng(3)
    outcomes = set()
    for _ in range(300):
        data, sealed = mutate(seeds, random)
        found = decoder.decode(data, [0.0])
        outcome, digests = decode_by_reference(data)
        outcomes.add(found["outcome"])
        assert found["outcome"] != "crashed", found["message"]
        if outcome in {"decoded", "damage reported"} and found["outcome"] == outcome:
            assert found["digests"] == digests
        assert sealed or known.issuperset(found["digests"])
        # The page may refuse more, as it does not know all forms of operators.
        assert (
            found["outcome"] == outcome
            or (sealed and found["outcome"] in {"refused", "unsupported"})
            or "runtime" in outcome
        )
    assert {"refused", "damage reported", "decoded"} <= outcomes


def told_by_page(extras):
    """Return what the page reads besides pictures, in the form of `told_by_reference`."""
    sound = extras["sound"] and [
        extras["sound"][name] for name in ("channels", "delay", "language")
    ]
    tracks = [
        [
            track["language"],
            track["title"],
            [[c["start"], c["stop"], c["text"]] for c in track["cues"]],
        ]
        for track in extras["tracks"]
    ]
    about = extras["about"]
    chapters = [[chapter["start"], chapter["title"]] for chapter in about["chapters"]]
    return (
        sound,
        extras["packets"],
        tracks,
        [about["title"], about["language"], about["date"], chapters],
    )


def told_by_reference(extras):
    sound = extras.sound
    packets = [] if sound is None else [[part.first, len(part.packets)] for part in sound.parts]
    tracks = [
        [each.language, each.title, [[c.start / 1000, c.stop / 1000, c.text] for c in each.cues]]
        for each in extras.subtitles
    ]
    about = extras.about
    chapters = [[chapter.start / 1000, chapter.title] for chapter in about.chapters]
    form = sound and [sound.format.channels, sound.format.delay, sound.format.language]
    return form, packets, tracks, [about.title, about.language, about.date, chapters]


@pytest.mark.parametrize("name", DIGESTS)
def test_sound_and_subtitles_are_read_as_by_the_reference(decoder, name):
    data = (DATA / f"{name}.nerv").read_bytes()
    found = decoder.decode(data)["extras"]
    assert told_by_page(found) == told_by_reference(Clip.parse(data).extras)


@pytest.mark.parametrize("segment", [0, 1])
@pytest.mark.parametrize(
    ("kind", "payload"), [each[:2] for each in (*BROKEN_CUES, *BROKEN_DESCRIPTIONS)]
)
def test_subtitles_that_break_a_rule_are_dropped(decoder, tiny_clip, kind, payload, segment):
    data = chunked(replace(tiny_clip, extras=TOLD), (kind, payload), segment=segment)
    clip = Clip.parse(data, strict=False)
    found = decoder.decode(data)
    assert bool(found["damage"]) == bool(clip.damage)
    assert told_by_page(found["extras"]) == told_by_reference(clip.extras)
