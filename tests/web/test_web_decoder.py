"""The web page's decoder against the reference decoder: golden files, damage, and strangers' files."""

import json

import numpy as np
import pytest
from fuzz import decode as decode_by_reference
from fuzz import mutate, seeds_and_digests
from golden import DATA, TIMES
from helpers import fit_clip
from web_decoder import NODE, web_decoder

from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.presets import PRESETS

DIGESTS = json.loads((DATA / "digests.json").read_text())

pytestmark = pytest.mark.skipif(NODE is None, reason="no Node")


@pytest.fixture(scope="module")
def decoder():
    with web_decoder() as running:
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
