"""Subtitles and chapters on both pages: shown at their times, chosen by list and key, remembered."""

import json
import time
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
from chromium import faults, run, serving
from firefox import FIREFOX, Firefox
from helpers import SAMPLE
from hosting import Handler, hosting
from waiting import wait_for

from encoder.codec.about import About, Chapter
from encoder.codec.clip import Clip
from encoder.codec.extras import Extras
from encoder.codec.subtitles import Cue, TextTrack
from export.cli.main import main as export_main

pytestmark = pytest.mark.alone

ENGLISH = TextTrack(
    "en", "", [Cue(0, 2000, "One &amp; <i>all</i>"), Cue(3000, 4000, "<b onclick=x>Two</b>\nlines")]
)
GERMAN = TextTrack("de", "Für alle", [Cue(0, 5000, "<script>alert(1)</script>Drei")])
ABOUT = About(title="A rabbit", chapters=(Chapter(0, "Sleep"), Chapter(2640, "Waking")))
SHOWN = "[...document.querySelectorAll('#captions p')].map(({ innerHTML }) => innerHTML).join('|')"
MARKS = "[...document.querySelectorAll('#marks i')].map((mark) => mark.style.getPropertyValue('--place'))"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The sample with two text tracks and two chapters."""
    path = tmp_path_factory.mktemp("told") / "film.nerv"
    extras = Extras(subtitles=(ENGLISH, GERMAN), about=ABOUT)
    path.write_bytes(bytes(replace(Clip.read(SAMPLE), extras=extras)))
    return path


def choose(driver, text):
    from selenium.webdriver.support.select import Select

    Select(driver.find_element("id", "subtitles")).select_by_visible_text(text)


def check(driver, seek):
    """Choose, see and leave subtitles on either page; `seek` goes to a time in seconds, and pauses."""
    wait_for(
        lambda: run(driver, "document.getElementById('subtitles')?.hidden === false") is True, 20
    )
    names = [each.text for each in driver.find_elements("css selector", "#subtitles option")]
    assert names == ["No subtitles", "English", "Für alle"]
    assert driver.find_element("id", "title").text == "A rabbit"
    (mark,) = run(driver, MARKS)
    assert float(mark) == pytest.approx(0.5)
    seek(1)
    wait_for(lambda: driver.find_element("id", "chapter").text == "Sleep")
    assert run(driver, SHOWN) == ""
    choose(driver, "English")
    wait_for(lambda: run(driver, SHOWN) == "One &amp; <i>all</i>")
    seek(3.4)
    wait_for(lambda: run(driver, SHOWN) == "<b>Two</b>\nlines")
    assert driver.find_element("id", "chapter").text == "Waking"
    seek(2.5)
    wait_for(lambda: run(driver, SHOWN) == "")
    # What is no tag of WebVTT is dropped, and is never a tag of the page.
    choose(driver, "Für alle")
    wait_for(lambda: run(driver, SHOWN) == "alert(1)Drei")
    body = driver.find_element("tag name", "body")
    run(driver, "document.activeElement.blur()")
    body.send_keys("c")
    wait_for(lambda: run(driver, SHOWN) == "")
    body.send_keys("c")
    wait_for(lambda: run(driver, "document.getElementById('subtitles').value") == "0")
    choose(driver, "Für alle")
    driver.refresh()
    wait_for(lambda: run(driver, "document.getElementById('subtitles')?.value") == "1", 20)


def test_subtitles_of_a_clip_decoded_in_the_browser(clip, driver, tmp_path):
    assert export_main(["web", str(clip), "-o", str(tmp_path / "site")]) == 0
    with hosting(tmp_path / "site") as url:
        driver.get(url)

        def seek(seconds):
            run(driver, f"(nervcast.pause(), nervcast.currentTime = {seconds})")

        check(driver, seek)
        assert faults(driver) == []
        tracks = run(driver, "JSON.stringify(nervcast.textTracks)")
        assert [track["language"] for track in json.loads(tracks)] == ["en", "de"]


class Piecewise(Handler):
    """A host that sends clips in pieces, and the script that reads their subtitles late."""

    def copyfile(self, source, outputfile):
        if self.path.endswith("film.js"):
            time.sleep(0.3)
        piece = 4000 if self.path.endswith(".nerv") else -1
        while data := source.read(piece):
            outputfile.write(data)
            outputfile.flush()
            time.sleep(0.02)


def test_subtitles_that_arrive_before_their_reader_stay_in_order(clip, driver, tmp_path):
    assert export_main(["web", str(clip), "-o", str(tmp_path / "site")]) == 0
    with hosting(tmp_path / "site", Piecewise) as url:
        driver.get(url)
        wait_for(lambda: run(driver, "window.nervcast?.statistics.isComplete") is True, 20)
        wait_for(lambda: run(driver, "nervcast.textTracks.length") == 2, 20)
        assert run(driver, "nervcast.textTracks.map(({ cues }) => cues.length)") == [2, 1]
        assert run(driver, "nervcast.statistics.damage") == []


def test_subtitles_of_a_stream(clip, driver, tmp_path):
    with serving(str(clip), cwd=tmp_path) as (_, url):
        with urllib.request.urlopen(f"{url}/api/clips/film/subtitles/1.vtt") as response:
            assert response.headers["Content-Type"] == "text/vtt; charset=utf-8"
            assert response.read().decode() == GERMAN.webvtt()
        for wrong in ("2.vtt", "-1.vtt", "0.srt", "1e3.vtt"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{url}/api/clips/film/subtitles/{wrong}")
        driver.get(url)
        wait_for(lambda: run(driver, "!document.getElementById('play').disabled") is True, 20)

        def seek(seconds):
            frame = round(seconds * 25)
            run(
                driver,
                f"""fetch("/api/sessions/" + nervcast.id, {{ method: "POST",
                headers: {{ "Content-Type": "application/json" }},
                body: JSON.stringify({{ frame: {frame}, playing: false }}) }})""",
            )

        check(driver, seek)
        assert faults(driver) == []


async def seen_in_firefox(firefox, seek):
    """Choose the first track, run a script that seeks, and return whether the second cue is seen then."""
    return await firefox.evaluate(f"""
    (async () => {{
      const until = async (holds) => {{
        while (!holds()) await new Promise((resolve) => setTimeout(resolve, 50));
      }};
      const list = () => document.getElementById("subtitles");
      await until(() => list()?.hidden === false && !document.getElementById("play").disabled);
      list().value = "0";
      list().dispatchEvent(new Event("change"));
      await ({seek});
      await until(() => {SHOWN} === "<b>Two</b>\\nlines");
      return true;
    }})()""")


@pytest.mark.skipif(not FIREFOX, reason="no Firefox: sh tests/support/install_peers.sh")
async def test_subtitles_in_firefox(clip, tmp_path):
    assert export_main(["web", str(clip), "-o", str(tmp_path / "site")]) == 0
    with hosting(tmp_path / "site") as url:
        async with Firefox(tmp_path / "profile") as firefox:
            await firefox.open(url)
            assert await seen_in_firefox(firefox, "nervcast.currentTime = 3.4")


@pytest.mark.skipif(not FIREFOX, reason="no Firefox: sh tests/support/install_peers.sh")
async def test_subtitles_of_a_stream_in_firefox(clip, tmp_path):
    seek = """fetch("/api/sessions/" + nervcast.id, { method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ frame: 85, playing: false }) })"""
    with serving(str(clip), cwd=tmp_path) as (_, url):
        async with Firefox(tmp_path / "profile") as firefox:
            await firefox.open(url)
            assert await seen_in_firefox(firefox, seek)


def test_pages_load_nothing_of_it_for_clips_without(driver, tmp_path):
    assert export_main(["web", str(SAMPLE), "-o", str(tmp_path / "site")]) == 0
    with hosting(tmp_path / "site") as url:
        driver.get(url)
        wait_for(lambda: run(driver, "window.nervcast?.currentTime > 0.3") is True, 20)
        loaded = run(driver, "performance.getEntriesByType('resource').map(({ name }) => name)")
        assert not any(name in each for each in loaded for name in ("captions", "film", "extras"))
