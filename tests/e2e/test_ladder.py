"""Ladders: fitted, served, and watched through a line that becomes narrow."""

import asyncio
import contextlib
import json
import time
from dataclasses import replace

import aiohttp
import pytest
from beeps import write_beeps
from chromium import CHROMIUM, DRIVER, browsing, faults, run
from load import JoinError, Watcher
from media import numbered, write, yuv
from playing import make_item, make_server
from relay import Relay
from waiting import until, wait_for

from encoder.cli.main import main as encoder_main
from encoder.codec.clip import Clip
from encoder.codec.ladder import Ladder
from encoder.common.errors import RunError
from player.playback.catalog import find_items
from player.server.limits import Limits

BYTES = (30_000, 80_000, 200_000)
BITRATE = 1_200_000
NARROW = 300_000


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A ladder of three clips, of two frame sizes."""
    folder = tmp_path_factory.mktemp("ladder")
    frames = [yuv(picture) for picture in numbered(40, width=64, height=48, step=6)]
    source = write(folder / "film.mp4", frames)
    fit = ["fit", str(source), "-o", str(folder / "film.json")]
    assert encoder_main([*fit, *FIT]) == 0
    return folder / "film.json"


def test_a_ladder_has_a_clip_for_each_rung_and_the_same_segments(film):
    rungs = Ladder.load(film).rungs
    names = ["film-32x24-6kB.nerv", "film-64x48-7kB.nerv", "film-64x48-12kB.nerv"]
    assert [rung.file for rung in rungs] == names
    clips = [Clip.read(film.with_name(rung.file)) for rung in rungs]
    assert [(clip.header.width, clip.header.height) for clip in clips] == [
        (32, 24),
        (64, 48),
        (64, 48),
    ]
    assert {tuple(x.start for x in clip.segments) for clip in clips} == {(0, 20)}
    for rung in rungs:
        assert rung.bytes == film.with_name(rung.file).stat().st_size
    # Nothing but the ladder is left.
    assert sorted(each.name for each in film.parent.iterdir()) == sorted(
        [*names, "film.json", "film.mp4"]
    )


RUNGS = ["32x24@6kB", "64x48@7kB", "64x48@12kB"]
FIT = ["--size", "XS", "--epochs", "6", "--segment-frames", "20", "--ladder", *RUNGS]


def test_an_interrupted_ladder_goes_on_with_its_finished_clips(film, tmp_path, monkeypatch):
    output = tmp_path / "film.json"
    fit = ["fit", str(film.with_name("film.mp4")), "-o", str(output), *FIT]

    def fail(*_):
        raise RunError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("encoder.cli.compress.write_rung", fail)
        assert encoder_main(fit) == 2
    whole = tmp_path / "film-64x48-12kB.nerv"
    made = whole.stat().st_mtime_ns
    assert not output.exists()
    assert encoder_main([*fit, "--resume"]) == 0
    assert whole.stat().st_mtime_ns == made
    assert [rung.file for rung in Ladder.load(output).rungs] == [
        rung.file for rung in Ladder.load(film).rungs
    ]
    # Nothing but the ladder is left, from which nothing is taken over without --resume.
    assert not any(each.name.startswith(".") for each in tmp_path.iterdir())
    assert encoder_main(fit) == 0
    assert whole.stat().st_mtime_ns > made


def test_a_rung_without_room_is_an_error_before_the_first_fit(tmp_path, capsys):
    source = write_beeps(tmp_path / "a.mkv")
    fit = ["fit", str(source), "-o", str(tmp_path / "a.json"), "--size", "XS"]
    assert encoder_main([*fit, "--ladder", "2kB", "40kB"]) == 2
    assert "the file's size must be over" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["a.mkv"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--ladder", "40kB"], "2 to 16 different rungs"),
        (["--ladder", "40kB", "40kB"], "2 to 16 different rungs"),
        (["--ladder", "40kB", "big"], "a rung is a size such as"),
        (["--ladder", "40kB", "0x0@80kB"], "a size is two numbers"),
        (["--ladder", "40kB", "80kB", "--file-size", "1MB"], "give no other"),
        (["--ladder", "40kB", "80kB", "--psnr", "32"], "give no other"),
        (["--ladder", "40kB", "80kB", "--checkpoint", "a"], "no checkpoint"),
        (["--ladder", "40kB", "80kB", "-o", "a.nerv"], "its manifest, FILM.json"),
        (["-o", "a.json"], "name of a ladder's manifest"),
    ],
)
def test_ladders_that_cannot_be(film, tmp_path, capsys, arguments, reason):
    output = [] if "-o" in arguments else ["-o", str(tmp_path / "film.json")]
    assert encoder_main(["fit", str(film.with_name("film.mp4")), *arguments, *output]) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def ladder_of(clip):
    """Return an item of three rungs, which have the same frames and pretend to be of different bytes."""
    rungs = [replace(make_item(clip, "film"), file_bytes=size) for size in BYTES]
    rungs[-1].rungs = rungs
    return rungs[-1]


async def state_of(http, url):
    async with http.get(url) as response:
        return await response.json()


async def test_a_ladder_is_one_clip_with_rungs(film, aiohttp_client):
    with contextlib.ExitStack() as downloads:
        items = find_items([str(film)], lambda clip, failed: None, downloads)
    client = await aiohttp_client(make_server(items))
    async with client.get("/api/clips") as response:
        (entry,) = await response.json()
    assert (entry["name"], entry["width"]) == ("film", 64)
    assert [rung["width"] for rung in entry["rungs"]] == [32, 64, 64]
    async with client.get("/api/clips/film/clip.nerv") as response:
        assert await response.read() == film.with_name("film-64x48-12kB.nerv").read_bytes()


async def test_a_viewer_changes_the_rung_by_hand_and_stays_in_time(
    tiny_clip, aiohttp_server, monkeypatch
):
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: ["127.0.0.1"])
    clip = replace(tiny_clip, header=replace(tiny_clip.header, frames=6))
    server = await aiohttp_server(make_server([ladder_of(clip)]))
    url = f"http://127.0.0.1:{server.port}"
    async with aiohttp.ClientSession() as http:
        watchers = [Watcher(http, f"{url}/whep/film", codec="H264") for _ in range(2)]
        for watcher in watchers:
            await watcher.join()
        session = f"{url}/api/sessions/{watchers[0].session}"
        found = await state_of(http, session)
        assert (found["rung"], found["chooses_rung"]) == (1, True)
        async with http.post(session, json={"rung": 0}) as response:
            found = await response.json()
        assert (found["rung"], found["chooses_rung"], found["clip"]) == (0, False, "film")
        frames = watchers[0].statistics()["frames"]
        await until(lambda: watchers[0].statistics()["frames"] >= frames + 10)
        # What one does to the shared timeline, all rungs do.
        async with http.post(session, json={"playing": False, "frame": 2}) as response:
            assert response.status == 200
        other = f"{url}/api/sessions/{watchers[1].session}"
        for _ in range(100):
            found = await state_of(http, other)
            if not found["playing"] and found["frame"] == 2:
                break
            await asyncio.sleep(0.05)
        assert (found["playing"], found["frame"]) == (False, 2)
        # The shared timeline is that of the rungs that somebody watches.
        assert (await state_of(http, f"{url}/api/clips/film"))["viewers"] > 0
        for wrong in (3, -1, True, "1", 0.5):
            async with http.post(session, json={"rung": wrong}) as response:
                assert response.status == 400
                assert "rung must be null" in (await response.json())["error"]
        async with http.post(session, json={"private": True}) as response:
            assert (await response.json())["private"]
        async with http.post(session, json={"rung": 2}) as response:
            found = await response.json()
        assert (found["rung"], found["private"], found["playing"]) == (2, True, False)
        answers = []
        for number in range(12):
            async with http.post(other, json={"rung": number % 3}) as response:
                answers.append(response.status)
        assert answers[0] == 200
        assert answers[-1] == 429
        for watcher in watchers:
            await watcher.leave()


async def join_alone(http, url):
    """Return a viewer with a private timeline, once none is closing that takes its place."""
    async with asyncio.timeout(20):
        while True:
            watcher = Watcher(http, f"{url}/whep/film?private=1", codec="H264")
            try:
                await watcher.join()
            except JoinError as error:
                await watcher.peer.close()
                if "no private timeline is left" not in str(error):
                    raise
                await asyncio.sleep(0.1)
            else:
                return watcher


async def test_a_viewer_who_leaves_in_the_middle_of_a_change_leaves_no_timeline(
    tiny_clip, aiohttp_server, monkeypatch
):
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: ["127.0.0.1"])
    server = await aiohttp_server(
        make_server([ladder_of(tiny_clip)], limits=Limits(per_address=9, private=2))
    )
    url = f"http://127.0.0.1:{server.port}"
    async with aiohttp.ClientSession() as http:
        for _ in range(3):
            watcher = await join_alone(http, url)
            session = f"{url}/api/sessions/{watcher.session}"
            # Of two timelines the change needs the other one for a moment, and gives it back.
            for _ in range(100):  # the former one's timelines are still closing
                if (await state_of(http, session))["private_left"] == 1:
                    break
                await asyncio.sleep(0.05)
            async with http.post(session, json={"rung": 0}) as response:
                assert (await response.json())["rung"] == 0
            change = asyncio.create_task(http.post(session, json={"rung": 2}))
            await asyncio.sleep(0.01)
            await watcher.leave()
            (await change).close()
        watcher = await join_alone(http, url)
        for _ in range(100):
            state = await state_of(http, f"{url}/api/sessions/{watcher.session}")
            if state["private_left"] == 1:
                break
            await asyncio.sleep(0.05)
        assert state["private_left"] == 1
        await watcher.leave()


RECORD = """
(() => {
  const video = document.getElementById("video");
  let last = performance.now();
  window.longest = 0;
  const next = (now) => {
    window.longest = Math.max(window.longest, now - last);
    last = now;
    video.requestVideoFrameCallback(next);
  };
  video.requestVideoFrameCallback((now) => { last = now; next(now); });
  return true;
})()
"""
RUNG = "window.nervcast?.id && fetch(`/api/sessions/${nervcast.id}`).then((response) => response.json()).then(({ rung }) => rung)"


@pytest.mark.alone
@pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium: sh tests/support/install_peers.sh"
)
async def test_a_narrow_line_leads_to_a_lower_rung_and_back(sample_clip, aiohttp_server, tmp_path):
    """No picture stands for a second, and the top is reached within 15 s once the line is wide again."""
    async with Relay() as relay:
        item = ladder_of(sample_clip)
        app = make_server([item], bitrate=BITRATE)
        app.middlewares.append(relay.middleware)
        server = await aiohttp_server(app)
        loop = asyncio.get_running_loop()

        def set_rate(rate):
            loop.call_soon_threadsafe(setattr, relay, "rate", rate)

        def watch():
            with browsing(tmp_path / "profile") as driver:
                driver.get(f"http://127.0.0.1:{server.port}")
                wait_for(lambda: run(driver, RUNG) == 2, 30)
                assert "30 kB" in driver.find_element("id", "rung").text
                assert run(driver, RECORD) is True
                time.sleep(3)
                set_rate(NARROW)
                wait_for(lambda: run(driver, RUNG) == 0, 10)
                seen = []
                end = time.monotonic() + 15
                while time.monotonic() < end:
                    seen.append(run(driver, RUNG))
                    time.sleep(0.2)
                set_rate(None)
                began = time.monotonic()
                wait_for(lambda: run(driver, RUNG) == 2, 20)
                seconds = time.monotonic() - began
                longest = run(driver, "longest")
                return seen, seconds, longest, faults(driver)

        seen, seconds, longest, errors = await asyncio.to_thread(watch)
    print(json.dumps({"seen": seen, "seconds": seconds, "longest": longest}))
    assert seen.count(0) > len(seen) / 2
    assert seconds < 15
    assert longest < 1000
    assert errors == []
