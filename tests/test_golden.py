import hashlib
import json
import re

import numpy as np
import pytest
from golden import DATA, digest, pictures
from stranger import FORMAT

from encoder.codec.clip import Clip
from encoder.codec.topology import OPERATORS, dictionary

DIGESTS = json.loads((DATA / "v1.json").read_text())


@pytest.mark.parametrize("name", DIGESTS)
def test_golden_files_decode_as_ever(name):
    clip = Clip.read(DATA / f"{name}.nerv")
    assert digest(clip) == DIGESTS[name]
    expected = np.load(DATA / f"{name}.npy")
    assert np.abs(pictures(clip).astype(int) - expected).max() <= 1
    assert np.ptp(expected) > 100  # there is something to see
    assert bytes(clip) == (DATA / f"{name}.nerv").read_bytes()


def test_dictionary_is_the_one_of_the_format():
    text = FORMAT.read_text()
    assert f"({len(dictionary())} bytes" in text
    assert hashlib.sha256(dictionary()).hexdigest() in text


def test_operators_are_those_of_the_format():
    text = FORMAT.read_text()
    listed = text[text.index("only these operators") : text.index("no tensor stored outside")]
    assert set(re.findall(r"`(\w+)`", listed)) == OPERATORS
