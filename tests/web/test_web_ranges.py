"""Parts of a clip that the page's player fetches by ranges."""

import json
import subprocess

import pytest
from golden import DATA
from helpers import repeated
from web_decoder import NODE, SITE

from encoder.codec.clip import Clip
from encoder.codec.container import ChunkReader

pytestmark = pytest.mark.skipif(NODE is None, reason="no Node")

COUNT = 40
OTHER = (DATA / "v2-sound.nerv").read_bytes()


GOLDEN = Clip.read(DATA / "v2-pyramid.nerv")
FRAMES = GOLDEN.segments[0].frames
FILE = bytes(repeated(GOLDEN, COUNT, padding=20_000))
OFFSETS = [part.offset for part in ChunkReader().feed(FILE) if part.kind == b"SEGM"]


def parts(frames, *, file=FILE, arrived=30_000, first=0, position=None, serve="", calls=1):
    """Return what `partAt` says of frames, and the ranges that were asked for.

    `serve` is a script that changes `status`, `start` or `body` of a response.
    """
    given = {
        "arrived": arrived,
        "first": first,
        "position": arrived if position is None else position,
        "frames": [frame for frame in frames for _ in range(calls)],
    }
    script = f"""
      import {{ readFileSync }} from "node:fs";
      const file = new Uint8Array(readFileSync(0));
      const given = {json.dumps(given)};
      const asked = [];
      globalThis.fetch = async (address, {{ headers }}) => {{
        let start = Number(headers.Range.match(/^bytes=(\\d+)-$/)[1]);
        asked.push(start);
        let [status, body] = [206, file.subarray(start)];
        {serve}
        return new Response(body, {{ status, headers: {{ "content-range": `bytes ${{start}}-` }} }});
      }};
      const {{ partAt }} = await import({json.dumps((SITE / "ranges.js").as_uri())});
      const stage = {{
        address: "http://host/film.nerv", total: file.length, first: given.first, position: given.position,
        file: new Blob([file.subarray(0, given.arrived)]),
      }};
      const found = [];
      for (const frame of given.frames) {{
        const part = await partAt(stage, frame, undefined);
        const bytes = part && (await part.response.arrayBuffer()).byteLength;
        found.push(part && [part.first, part.offset, part.head.length, bytes]);
      }}
      console.log(JSON.stringify({{ found, asked }}));
    """
    command = [NODE, "--input-type=module", "-e", script]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, input=file).stdout)
    return told["found"], told["asked"]


def test_a_part_is_the_head_and_all_from_a_key_segment_on():
    frame = 20 * FRAMES + 1
    found, asked = parts([frame])
    expected = [20 * FRAMES, OFFSETS[20], OFFSETS[0], len(FILE) - OFFSETS[20]]
    assert found == [expected]
    assert asked == [len(FILE) - (1 << 16), OFFSETS[20]]
    part = FILE[: OFFSETS[0]] + FILE[OFFSETS[20] :]
    assert Clip.parse(part, strict=False).segments[0].start == 20 * FRAMES


def test_the_index_is_read_once():
    assert parts([20 * FRAMES], calls=3)[1] == [len(FILE) - (1 << 16), *[OFFSETS[20]] * 3]


def test_what_arrives_soon_is_waited_for():
    near, far = (FRAMES * index for index in (12, 16))
    assert OFFSETS[12] < 30_000 + (1 << 18) < OFFSETS[16]
    found, _ = parts([near, far])
    assert found[0] is None
    assert found[1][0] == far


def test_what_was_left_out_is_fetched():
    # The stage began at the 30th segment, so the 20th does not arrive.
    found, _ = parts([20 * FRAMES], first=30 * FRAMES, position=OFFSETS[31])
    assert found[0][0] == 20 * FRAMES
    assert parts([31 * FRAMES], first=30 * FRAMES, position=OFFSETS[31])[0] == [None]


def test_a_delta_segment_is_reached_from_its_key():
    keys, deltas = ([s for s in GOLDEN.segments if s.is_key is key] for key in (True, False))
    assert keys[0].start < deltas[-1].start < keys[1].start
    file = bytes(GOLDEN)
    wanted = [deltas[-1].start, keys[1].start]
    found, _ = parts(wanted, file=file, arrived=len(file), position=-(1 << 20))
    assert [part[0] for part in found] == [keys[0].start, keys[1].start]


@pytest.mark.parametrize(
    "serve",
    [
        "[status, body] = [200, file];",
        "start = 0;",
        "body = file.subarray(start, -1);",
        "body = file;",
        "if (start < file.length - 65536) [status, body] = [416, null];",
    ],
    ids=["all", "another-range", "short", "endless", "refused"],
)
def test_hosts_that_send_something_else_are_waited_for(serve):
    assert parts([20 * FRAMES], serve=serve)[0] == [None]


def broken(change):
    data = bytearray(FILE)
    change(data)
    return bytes(data)


def set_count(data, count):
    data[-8:-4] = count.to_bytes(4, "little")


BROKEN = {
    "checksum": broken(lambda data: data.__setitem__(-1, data[-1] ^ 1)),
    "place": broken(lambda data: data.__setitem__(-200, data[-200] ^ 1)),
    "no-index": FILE[: OFFSETS[-1]],
    "none": broken(lambda data: set_count(data, 0)),
    "fewer": broken(lambda data: set_count(data, COUNT - 1)),
    "many": broken(lambda data: set_count(data, 2**32 - 1)),
    "of-another-file": FILE[: OFFSETS[-1]] + OTHER,
    "tiny": FILE[:10],
    "empty": b"",
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_without_a_fitting_index_are_waited_for(name):
    assert parts([20 * FRAMES, 21 * FRAMES], file=BROKEN[name])[0] == [None, None]


def test_a_long_index_takes_a_second_request():
    count = 4000
    file = bytes(repeated(GOLDEN, count))
    found, asked = parts([3000 * FRAMES], file=file)
    assert found[0][0] == 3000 * FRAMES
    assert asked[:2] == [len(file) - (1 << 16), len(file) - 17 * count - 20]
