"""Lists of ladders as browsers read them, and the choice among the rungs."""

import json
import subprocess
from itertools import pairwise

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


SCENES = """
const stages = [];
const make = (source, more = {}) => {
  const stage = {
    header: { frames: 2500, rate: 25, width: 320, height: 180, isContinuous: false },
    starts: Array.from({ length: 100 }, (_, index) => 25 * index),
    end: 2500, bytes: 1000, isWhole: true, isMeasured: false, bytesPerSecond: 0, isClosed: false,
    source: source instanceof Blob ? "kept" : String(source).at(-6), file: new Blob(["x"]),
    close() { this.isClosed = true; },
    ring: {
      milliseconds: 1, memoryBytes: 0, first: 0, isReady: true,
      restart(first) { this.first = first; },
      fill(first) { this.filled = first; },
      has(number, after) { return this.isReady && this.first <= number && this.first + 50 > after; },
    },
    ...more,
  };
  stages.push(stage);
  return stage;
};
const SIZES = [1e5, 1e6, 4e6];
const rungs = SIZES.map((bytes, place) => ({ file: `${"abc"[place]}.nerv`, bytes, width: 320, height: 180 }));
let next = {};
const ladder = new Ladder(rungs, "http://host/film.json", (source) => make(source, next));
let [now, due, present] = [1000, 0, ladder.begin()];
/** Play for a time; return the numbers of pictures at which the rung changed. */
function play(seconds, more = {}) {
  const changes = [];
  for (let tick = 0; tick < 25 * seconds; tick++) {
    now += 40;
    if (!more.isHeld && !more.isPaused) due++;
    const stage = ladder.follow({
      now, due, shown: due - 1, present, late: 0, density: 1, speed: 1, isPaused: false, isHeld: false,
      timesOf: (each) => (number) => (number < each.end ? number : null), ...more,
    });
    if (stage) {
      changes.push(due);
      present = stage;
    }
  }
  return changes;
}
const opened = () => stages.splice(0).map(({ source }) => source[0]).join("");
"""
"""Stages that stand in for downloads and workers, and a ladder of three rungs that plays them."""


def scene(script):
    """Return what a scene tells, as a list."""
    script = f"""
      Object.defineProperty(globalThis, "navigator", {{ value: {{ hardwareConcurrency: 2 }} }});
      const {{ Ladder }} = await import({json.dumps((SITE / "ladder.js").as_uri())});
      {SCENES}
      const told = [];
      const tell = (...values) => told.push(...values);
      {script}
      console.log(JSON.stringify(told));
    """
    command = [NODE, "--input-type=module", "-e", script]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_one_rung_after_the_other_while_the_line_is_unknown():
    changes, index, opened = scene("tell(play(10), ladder.index, opened());")
    assert (index, opened) == (2, "abc")
    assert len(changes) == 2
    assert all(change % 25 == 0 for change in changes)


def test_known_line_leads_to_its_rung_at_once():
    assert scene("""
      Object.assign(present, { bytesPerSecond: 1e6 });
      tell(play(5).length, ladder.index, opened());
    """) == [1, 2, "ac"]


def test_slow_line_keeps_the_rung_and_is_tried_again_later_and_later():
    tries = scene("""
      present.bytesPerSecond = 12000;
      next = { isWhole: false, starts: [], end: 0, bytesPerSecond: 5000 };
      for (let second = 0; second < 300; second++) {
        const count = stages.length;
        play(1);
        if (stages.length > count) tell(second);
      }
      tell(ladder.index);
    """)
    *tries, index = tries
    assert index == 0
    gaps = [after - before for before, after in pairwise(tries)]
    assert 9 <= tries[0] <= 12  # once the measure is stale
    assert all(after > 1.5 * before for before, after in pairwise(gaps[:3]))
    assert max(gaps) >= 80


def test_held_film_goes_down_at_once_and_up_again_after_ten_seconds():
    changes, kept, index, tries = scene("""
      play(5);
      const whole = ladder.index;
      Object.assign(present, { isWhole: false, end: 250, bytesPerSecond: 10 });
      due = 250;
      next = {};
      opened();
      tell(play(0.6, { isHeld: true }), opened()[0], ladder.index);
      present.isMeasured = true;
      let second = 0;
      for (; second < 40 && !opened(); second++) play(1);
      tell(second);
    """)
    assert changes == [250]
    assert kept == "k"  # the file that had arrived
    assert index < 2
    assert 7 <= tries <= 13


def test_failed_way_up_leaves_a_rung_that_has_arrived():
    assert scene("""
      next = {};
      play(1);
      const before = ladder.index;
      next = { isWhole: false, starts: [], end: 0, bytesPerSecond: 500 };
      play(60);
      tell(before, ladder.index);
    """) == [1, 1]


def test_choice_by_hand_comes_at_once_also_in_a_pause_after_it_was_due_later():
    assert scene("""
      next = { bytesPerSecond: 0 };
      ladder.wanted = 2;
      play(0.2);
      ladder.defer();
      tell(play(0.2, { isPaused: true }), ladder.index);
      ladder.wanted = 0;
      tell(play(1).length, ladder.index, ladder.wanted);
    """) == [[5], 2, 1, 0, 0]


def test_rung_that_is_not_ready_in_time_gets_another_turn():
    changes, ready = scene("""
      next.ring = { milliseconds: 1, memoryBytes: 0, first: 0, isReady: false, restart(first) { this.first = first; },
        fill() {}, has(number) { return this.isReady && this.first <= number; } };
      play(4);
      const at = due;
      next.ring.isReady = true;
      tell(play(4).map((change) => change - at).slice(0, 1), next.ring.first > at);
    """)
    assert 0 < changes[0] <= 40
    assert ready


def test_lateness_leads_down_unless_the_film_runs_too_fast_for_any_page():
    assert scene("""
      play(10);
      let late = 0;
      const before = ladder.index;
      for (let second = 0; second < 3; second++) play(1, { late: (late += 400), speed: 16 });
      tell(before, ladder.index);
      for (let second = 0; second < 3; second++) play(1, { late: (late += 20) });
      tell(ladder.index < 2);
    """) == [2, 2, True]


def test_lost_rungs_are_replaced_until_none_is_left():
    assert scene("""
      const error = new Error("lost");
      tell(ladder.replace(present, error).source[0], ladder.index);
      ladder.replace(present, error);
      tell(ladder.index, ladder.replace(present, error), ladder.damage.length);
    """) == ["b", 1, 2, None, 3]


def test_clips_of_other_frames_are_refused():
    assert scene("""
      next.header = { ...present.header, isContinuous: true };
      tell(play(3), ladder.index, ladder.damage);
    """) == [
        [],
        0,
        [f"{name}.nerv cannot be played: it has other frames" for name in "bc"],
    ]
