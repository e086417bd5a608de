"""The ring of decoded pictures, and the engine that decodes them."""

import json
import subprocess

import pytest
from web_decoder import NODE, SITE

pytestmark = pytest.mark.skipif(NODE is None, reason="no Node")


def play(steps):
    """Return what a script makes of a ring of two workers, which keep what they are asked for."""
    script = f"""
      const {{ Ring }} = await import({json.dumps((SITE / "ring.js").as_uri())});
      const asked = [[], []];
      const ring = new Ring(asked.map((list) => ({{ postMessage: (each) => list.push(each) }})), () => {{}});
      const answer = (place, milliseconds, engine) => {{
        const {{ id }} = asked[place].shift();
        ring.receive(place, {{ id, fault: null, buffer: new ArrayBuffer(4), milliseconds, memory: 0, engine }});
      }};
      ring.restart(0, (number) => number, 4);
      ring.fill(0);
      const found = [];
      const note = () => found.push([ring.engine, ring.workerCount, ring.milliseconds]);
      {steps}
      console.log(JSON.stringify(found));
    """
    command = [NODE, "--input-type=module", "-e", script]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_pace_is_the_mean_of_all_workers():
    found = play("answer(0, 10, 'wasm'); note(); answer(1, 20, 'wasm'); note();")
    assert found == [["wasm", 2, 10], ["wasm", 2, 15]]


def test_a_gpu_decodes_alone_at_a_pace_of_its_own():
    found = play("""
      answer(0, 40, 'wasm'); ring.fill(0); note();
      answer(0, 90, 'webgpu'); ring.fill(0); note();
      answer(1, 50, 'wasm'); note();
      answer(0, 2, 'webgpu'); note();
      ring.fill(0); found.push([asked[0].length, asked[1].length]);
    """)
    # The picture that is compared takes longer, and what others had begun tells nothing.
    assert found[:3] == [["wasm", 2, 40], ["webgpu", 1, 40], ["webgpu", 1, 40]]
    assert found[3] == ["webgpu", 1, 2]
    assert found[4] == [2, 1]


def test_all_workers_decode_again_once_the_gpu_is_lost():
    found = play("""
      answer(0, 9, 'webgpu'); ring.fill(0); answer(0, 2, 'webgpu'); ring.fill(0); note();
      answer(0, 60, 'wasm'); note();
      answer(1, 50, 'wasm'); note();
      ring.fill(0); ring.fill(0); found.push([asked[0].length, asked[1].length]);
    """)
    assert found[:3] == [["webgpu", 1, 2], ["wasm", 2, 2], ["wasm", 2, 50]]
    assert found[3] == [2, 2]
