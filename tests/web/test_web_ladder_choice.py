"""Lists of ladders as browsers read them, and the choice among the rungs."""

import json
import subprocess

import pytest
from web_decoder import NODE, SITE

from encoder.codec.ladder import Ladder
from encoder.common.errors import BitstreamError

pytestmark = pytest.mark.skipif(NODE is None, reason="no Node")

RUNG = {"file": "a.nerv", "bytes": 9, "width": 64, "height": 48}
GOOD = {"format": "nervcast ladder", "version": 1, "rungs": [RUNG]}
LARGE = {**RUNG, "file": "b.nerv", "bytes": 90}


def call(expression, *arguments):
    """Return the result of a JavaScript function of ladder.js, or the message of its error."""
    script = f"""
      Object.defineProperty(globalThis, "navigator", {{ value: {{ hardwareConcurrency: 2 }} }});
      const ladder = await import({json.dumps((SITE / "ladder.js").as_uri())});
      const found = JSON.parse(process.argv[1]).map((each) => {{
        try {{ return ladder.{expression}(...each); }} catch (error) {{ return error.message; }}
      }});
      console.log(JSON.stringify(found));
    """
    command = [NODE, "--input-type=module", "-e", script, json.dumps(arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def broken(**changes):
    return {**GOOD, "rungs": [{**RUNG, **changes}]}


LISTS = [
    GOOD,
    {**GOOD, "rungs": [LARGE, RUNG]},
    {**GOOD, "more": 1},
    [],
    None,
    3,
    {},
    {**GOOD, "version": 2},
    {**GOOD, "version": True},
    {**GOOD, "rungs": []},
    {**GOOD, "rungs": {"0": RUNG}},
    {**GOOD, "rungs": [RUNG, RUNG]},
    {**GOOD, "rungs": [{**RUNG, "file": f"{number}.nerv"} for number in range(17)]},
    {**GOOD, "rungs": [3]},
    *(broken(file=name) for name in ("../a.nerv", "a/b.nerv", "a\\b.nerv", "a.mp4", "", None, 3)),
    *(
        broken(file=name)
        for name in (
            ".nerv",
            "a\x07.nerv",
            "a\u2028.nerv",
            "a\u00a0.nerv",
            "a\ud800.nerv",
            300 * "a" + ".nerv",
        )
    ),
    *(broken(file=name) for name in ("..nerv", "a b.nerv", "\u00e9.nerv", "a?b#.nerv")),
    *(broken(bytes=value) for value in (0, -1, 1.5, "9", None, True, 2**30, 2**30 + 1)),
    *(broken(width=value) for value in (0, 8192, 8193)),
    *(broken(height=value) for value in (0, 8192, 8193)),
]


def test_browsers_take_the_lists_that_the_player_takes(tmp_path):
    texts = [*map(json.dumps, LISTS), "{", '{"a": NaN}']
    for text, found in zip(texts, call("parseLadder", *([text] for text in texts)), strict=True):
        path = tmp_path / "film.json"
        path.write_text(text)
        try:
            expected = [rung.__dict__ for rung in Ladder.load(path).rungs]
        except BitstreamError:
            assert isinstance(found, str), text
        else:
            assert found == expected, text


@pytest.mark.parametrize(
    ("bytes_per_second", "pixels_per_second", "best"),
    [
        (0, 0, 0),
        (60_000, 1e9, 2),
        (14_900, 1e9, 1),  # 150 % of 10 kB a second
        (7_400, 1e9, 0),
        (1, 1e9, 0),
        (60_000, 1.29 * 640 * 360 * 25, 1),
        (60_000, 1.31 * 640 * 360 * 25, 2),
    ],
)
def test_best_rung_arrives_and_is_decoded_in_time(bytes_per_second, pixels_per_second, best):
    sizes = [(25_000, 320, 180), (50_000, 320, 180), (100_000, 640, 360)]
    rungs = [dict(zip(("bytes", "width", "height"), size, strict=True)) for size in sizes]
    facts = {
        "bytesPerSecond": bytes_per_second,
        "pixelsPerSecond": pixels_per_second,
        "seconds": 10,
        "rate": 25,
    }
    assert call("bestRung", [rungs, facts]) == [best]
