"""What viewers get to see in real browsers: how smoothly, how soon, how late."""

import asyncio
import os
import time

import pytest
from chromium import (
    CHROMIUM,
    DRIVER,
    FIRST_PICTURE,
    VP8_ALONE,
    before_each_page,
    browsing,
    serving,
)
from firefox import FIREFOX, Firefox
from latency import measure
from playing import make_item, make_server
from relay import Relay
from waiting import wait_for

pytestmark = pytest.mark.alone

with_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium: sh tests/support/install_peers.sh"
)
with_firefox = pytest.mark.skipif(
    not FIREFOX, reason="no Firefox: sh tests/support/install_peers.sh"
)
SECONDS = int(os.environ.get("WATCH_SECONDS", "10"))
RATE = 25
SIZE = "return document.getElementById('video').videoWidth"
STATISTICS = """(async () => {
  const { framesDecoded, freezeCount, codec } = await window.nervcast.statistics();
  return { framesDecoded, freezeCount, codec, now: performance.now() };
})()"""
SEEK = """
const done = arguments[arguments.length - 1], frame = arguments[0];
const video = document.getElementById("video"), seek = document.getElementById("seek");
const canvas = document.createElement("canvas");
canvas.width = canvas.height = 16;
const context = canvas.getContext("2d", { willReadFrequently: true });
const look = () => {
  context.drawImage(video, 0, 0, 16, 16);
  return context.getImageData(0, 0, 16, 16).data;
};
const before = look();
let began;
const next = () => video.requestVideoFrameCallback((now) => {
  const after = look();
  const change = before.reduce((sum, value, index) => sum + Math.abs(value - after[index]), 0) / before.length;
  if (change > 4) done(now - began);
  else next();
});
next();
began = performance.now();
seek.value = frame;
for (const kind of ["input", "change"]) seek.dispatchEvent(new Event(kind));
"""
"""Seeks, and tells how long it takes until another picture is shown."""


@pytest.fixture
def chromium(tmp_path):
    with browsing(tmp_path / "profile") as driver:
        yield driver


def has_no_freeze(first, last, codec):
    assert (first["codec"], last["codec"]) == (codec, codec)
    frames, seconds = (
        last["framesDecoded"] - first["framesDecoded"],
        (last["now"] - first["now"]) / 1000,
    )
    assert seconds >= SECONDS
    assert frames / seconds == pytest.approx(RATE, rel=0.02)
    assert last["freezeCount"] == 0


@with_chromium
@pytest.mark.soak
@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_chromium_plays_without_a_freeze(chromium, tmp_path, codec):
    if codec == "VP8":
        before_each_page(chromium, VP8_ALONE)

    def statistics():
        return chromium.execute_async_script(f"{STATISTICS}.then(arguments[arguments.length - 1])")

    with serving(cwd=tmp_path) as (_, url):
        chromium.get(url)
        wait_for(lambda: chromium.execute_script(SIZE))
        first = statistics()
        time.sleep(SECONDS)
        has_no_freeze(first, statistics(), codec)
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []


@with_firefox
@pytest.mark.soak
async def test_firefox_plays_without_a_freeze(tmp_path):
    with serving(cwd=tmp_path) as (_, url):
        async with Firefox(tmp_path / "profile") as firefox:
            await firefox.open(url)
            for _ in range(100):
                if await firefox.evaluate("document.getElementById('video').videoWidth"):
                    break
                await asyncio.sleep(0.1)
            first = await firefox.evaluate(STATISTICS)
            await asyncio.sleep(SECONDS)
            last = await firefox.evaluate(STATISTICS)
            assert last["framesDecoded"] > first["framesDecoded"]
            has_no_freeze(first, last, "VP8")


@with_chromium
def test_first_picture_comes_soon(chromium, tmp_path):
    before_each_page(chromium, FIRST_PICTURE)
    waits = []
    with serving(cwd=tmp_path) as (_, url):
        for _ in range(7):
            chromium.get(url)
            wait_for(lambda: chromium.execute_script("return window.firstPicture"))
            waits.append(
                chromium.execute_script(
                    "const [asked] = performance.getEntriesByType('resource').filter(({ name }) => name.includes('/whep/'));"
                    "return window.firstPicture - asked.startTime;"
                )
            )
    print("first picture in ms:", [round(wait) for wait in waits])
    assert max(waits) < 300


@with_chromium
@pytest.mark.soak
def test_seek_shows_its_picture_soon(chromium, tmp_path):
    waits = []
    with serving(cwd=tmp_path) as (_, url):
        chromium.get(url)
        wait_for(lambda: chromium.execute_script(SIZE))
        time.sleep(1)
        chromium.find_element("id", "play").click()
        time.sleep(1)
        for frame in (10, 100, 20, 120, 5, 90, 30, 110):
            waits.append(chromium.execute_async_script(SEEK, frame))
            time.sleep(0.5)
    print("seek in ms:", [round(wait) for wait in waits])
    assert max(waits) < 150


@with_chromium
@pytest.mark.soak
def test_pictures_are_not_late():
    found = measure(None, 10)
    print(found)
    assert found["pictures"] > 200
    assert found["p95_ms"] < 100


GAPS = """
const done = arguments[arguments.length - 1], seconds = arguments[0];
const video = document.getElementById("video");
let last = performance.now(), longest = 0, count = 0;
const until = last + 1000 * seconds;
const next = () => video.requestVideoFrameCallback((now) => {
  longest = Math.max(longest, now - last);
  last = now;
  count++;
  if (now < until) next();
  else done({ longest, count });
});
next();
"""
"""Watches for some seconds, and tells the longest time from one picture to the next."""


@with_chromium
@pytest.mark.soak
async def test_loss_of_two_percent_is_made_good_within_a_second(
    chromium, aiohttp_server, sample_clip
):
    async with Relay(down=0.02, up=0.02, seed=1) as relay:
        app = make_server([make_item(sample_clip, engine="auto", batch=8)])
        app.middlewares.append(relay.middleware)
        server = await aiohttp_server(app)

        def watch():
            chromium.get(f"http://127.0.0.1:{server.port}")
            wait_for(lambda: chromium.execute_script(SIZE))
            time.sleep(2)
            return chromium.execute_async_script(GAPS, 20)

        found = await asyncio.to_thread(watch)
        print(found, relay.dropped, relay.passed)
    assert relay.dropped["down"] > 20
    assert found["longest"] < 1000
    assert found["count"] > 0.9 * 20 * RATE
