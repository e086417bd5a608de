"""Each operator of the web page's kernels, in a graph of its own, against ONNX Runtime."""

import re

import numpy as np
import pytest
from operator_clips import CASES, TIMES, one_node, pictures
from web_decoder import KERNELS, NODE, SITE, web_decoder

pytestmark = pytest.mark.skipif(NODE is None, reason="no Node")


@pytest.fixture(scope="module", params=KERNELS)
def decoder(request):
    with web_decoder(request.param) as running:
        yield running


@pytest.mark.parametrize("is_varying", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_one_operator_is_that_of_onnx_runtime(decoder, case, is_varying):
    """Once for a segment where its inputs are weights, and for each picture where time is among them."""
    clip = one_node(*CASES[case], is_varying=is_varying)
    expected = pictures(clip)
    shown = decoder.frames(bytes(clip), TIMES, (clip.header.width, 2))
    assert np.abs(shown.astype(int) - expected).max() <= 1
    assert ((expected > 0) & (expected < 255)).mean() > 0.2  # a good part is not clipped
    assert np.unique(expected).size > 1


def test_no_operator_is_left_out():
    """Casts make integers, which no picture shows; Swish is what the page makes of several nodes."""
    steps = (SITE / "steps.js").read_text().split("export const STEPS", 1)[1]
    known = set(re.findall(r"\b([A-Z]\w+):", steps))
    assert known - {"Cast", "Constant", "Swish"} == {op for op, *_ in CASES.values()}
