"""Sound over WebRTC: heard at the flashes of the received picture, and silent when it should be."""

import json

import pytest
from beeps import FIT, is_in_time, skews, write_beeps
from chromium import faults, run, serving
from firefox import FIREFOX, Firefox
from helpers import SAMPLE
from loudspeaker import PULSEAUDIO, loudspeaker
from waiting import wait_for

from encoder.cli.main import main as encoder_main

pytestmark = pytest.mark.alone

WINDOW = 8
"""Number of beeps that are compared with flashes."""
MAX_BEEPS = 80
"""Number of beeps in which a browser brings sound and picture together.

WebRTC in browsers corrects differences from 30 ms on, by at most 80 ms a second. Firefox begins with
sound up to 760 ms late. On busy cores it then overshoots by 150 ms, and comes back by some 12 ms a second.
"""

LISTEN = """
(() => {
  const video = document.getElementById("video");
  window.heard = [];
  window.seen = [];
  const context = new AudioContext({ sampleRate: 48000 });
  const source = context.createMediaStreamSource(video.srcObject);
  const tap = context.createScriptProcessor(256, 2, 1);
  let last = -1;
  tap.onaudioprocess = ({ inputBuffer, playbackTime }) => {
    const samples = inputBuffer.getChannelData(0);
    const place = samples.findIndex((each) => Math.abs(each) > 0.05);
    if (place < 0) return;
    const time = playbackTime + (place - 2 * 256) / context.sampleRate;
    const moment = performance.now() + 1000 * (time - context.currentTime);
    if (moment > last + 150) heard.push(moment);
    last = moment;
  };
  source.connect(tap);
  tap.connect(context.destination);
  const small = new OffscreenCanvas(8, 8).getContext("2d", { willReadFrequently: true });
  let isBright = true;
  const look = (_, { expectedDisplayTime }) => {
    small.drawImage(video, 0, 0, 8, 8);
    const isFlash = small.getImageData(4, 4, 1, 1).data[0] > 100;
    if (isFlash && !isBright) seen.push(expectedDisplayTime);
    isBright = isFlash;
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
  return true;
})()
"""
"""Notes the moments at which beeps are heard and flashes are shown."""
READY = """
document.getElementById("video").readyState > 2 && !document.getElementById("mute").hidden &&
document.getElementById("video").srcObject?.getAudioTracks().length === 1
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of flashes and beeps."""
    path = tmp_path_factory.mktemp("sound")
    source = write_beeps(path / "beeps.mkv")
    fit = ["fit", str(source), "-o", str(path / "beeps.nerv"), *FIT]
    assert encoder_main(fit) == 0
    return path / "beeps.nerv"


def test_beeps_are_heard_at_the_flashes_in_chromium(clip, driver, tmp_path):
    with serving(str(clip), cwd=tmp_path) as (_, url):
        driver.get(url)
        wait_for(lambda: run(driver, READY) is True, 20)
        assert run(driver, "document.getElementById('video').muted")
        driver.find_element("id", "mute").click()
        assert not run(driver, "document.getElementById('video').muted")
        assert run(driver, LISTEN) is True
        for count in range(WINDOW, MAX_BEEPS):
            wait_for(lambda count=count: run(driver, "heard.length") >= count, 20)
            found = skews(run(driver, "heard")[-WINDOW:], run(driver, "seen"))
            if is_in_time(found):
                break
        assert is_in_time(found), found
        # Silent at other speeds, and while paused.
        body = driver.find_element("tag name", "body")
        for keys, back in (("[", "]"), (" ", " ")):
            body.send_keys(keys)
            wait_for(lambda: run(driver, "performance.now() - heard.at(-1) > 2000"), 20)
            count = run(driver, "heard.length")
            body.send_keys(back)
            wait_for(lambda count=count: run(driver, "heard.length") > count, 20)
        body.send_keys("m")
        assert run(driver, "document.getElementById('video').muted")
        body.send_keys("\ue015")  # arrow down
        assert run(driver, "document.getElementById('video').volume") == pytest.approx(0.9)
        assert not run(driver, "document.getElementById('video').muted")
        assert faults(driver) == []


def test_clips_without_sound_have_no_button(driver, tmp_path):
    with serving(str(SAMPLE), cwd=tmp_path) as (_, url):
        driver.get(url)
        wait_for(lambda: run(driver, "!document.getElementById('play').disabled") is True, 20)
        assert not driver.find_element("id", "mute").is_displayed()
        driver.find_element("tag name", "body").send_keys("m\ue015")
        assert run(driver, "document.getElementById('video').muted")
        assert run(driver, "document.getElementById('video').volume") == 1


@pytest.mark.skipif(
    not (FIREFOX and PULSEAUDIO), reason="no Firefox: sh tests/support/install_peers.sh"
)
async def test_beeps_are_heard_at_the_flashes_in_firefox(clip, tmp_path):
    loud = {"media.autoplay.default": 0, "media.autoplay.block-webaudio": False}
    with loudspeaker(tmp_path), serving(str(clip), cwd=tmp_path) as (_, url):
        async with Firefox(tmp_path / "profile", loud) as firefox:
            await firefox.open(url)
            found = await firefox.evaluate(f"""
            (async () => {{
              const until = async (holds) => {{
                while (!holds()) await new Promise((resolve) => setTimeout(resolve, 50));
              }};
              await until(() => {READY.strip()});
              document.getElementById("mute").click();
              {LISTEN.strip()};
            }})()""")
            for count in range(WINDOW, MAX_BEEPS):
                times = await firefox.evaluate(f"""
                (async () => {{
                  while (heard.length < {count}) await new Promise((then) => setTimeout(then, 50));
                  return JSON.stringify([heard.slice(-{WINDOW}), seen]);
                }})()""")
                found = skews(*json.loads(times))
                if is_in_time(found):
                    break
            assert is_in_time(found), found
