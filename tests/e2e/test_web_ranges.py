"""Seeks in long clips, on hosts that serve ranges and on those that do not."""

import base64
import json
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
from chromium import CHROMIUM, DRIVER, browsing, faults, pixels_at, run
from helpers import SAMPLE, repeated
from hosting import Handler, RangesHandler, SharingHandler, hosting
from waiting import wait_for

from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from export.web.folder import write_site

pytestmark = pytest.mark.alone

COUNT = 14
CLIP = Clip.read(SAMPLE)
FRAMES = CLIP.header.frames
RATE = float(CLIP.header.rate)
PLAYING = "window.nervcast?.currentTime > 0.2"
FAR = (10 * FRAMES + 77.5) / RATE
"""Seconds of a frame that has not arrived."""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A headless Chromium for all tests."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium: sh tests/support/install_peers.sh")
    with browsing(tmp_path_factory.mktemp("browser") / "profile") as driver:
        yield driver


@pytest.fixture
def site(tmp_path):
    """A site with a clip of many key segments."""
    film = tmp_path / "film.nerv"
    film.write_bytes(bytes(repeated(CLIP, COUNT)))
    write_site([film], tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def handler():
    """A host that serves ranges, and of a whole clip the beginning alone."""

    class Fresh(RangesHandler):
        may_go_on = threading.Event()
        may_answer = threading.Event()
        asked: ClassVar[list[int]] = []

    yield Fresh
    for event in (Fresh.may_go_on, Fresh.may_answer):
        event.set()


def assert_shows(driver, seconds):
    """Compare the picture of a time with the reference decoder's."""
    (shown,) = run(driver, pixels_at([seconds]))
    expected = ReferenceDecoder(CLIP).frame(int(seconds * RATE) % FRAMES)
    pixels = np.frombuffer(base64.b64decode(shown), np.uint8).reshape(*expected.shape[1:], 4)
    assert np.abs(pixels[..., :3].transpose(2, 0, 1).astype(int) - expected).max() <= 1


def test_a_seek_does_not_wait_for_what_comes_before(site, driver, handler):
    with hosting(site, handler) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYING), 20)
        assert run(driver, "nervcast.buffered") < FAR
        assert handler.asked == []
        assert_shows(driver, FAR)
        assert len(handler.asked) == 2
        wait_for(lambda: run(driver, "nervcast.statistics.isComplete"))
        assert run(driver, "nervcast.buffered") == pytest.approx(COUNT * FRAMES / RATE)
        statistics = run(driver, "nervcast.statistics")
        assert statistics["damage"] == []
        size = (site / "film.nerv").stat().st_size
        assert statistics["downloadedBytes"] < size * 0.6
        # What comes before has not arrived. The index need not be read again.
        assert_shows(driver, 5.5 * FRAMES / RATE)
        assert len(handler.asked) == 3
        assert faults(driver) == []


def test_a_film_that_loops_goes_on_at_its_start(site, driver, handler):
    end = COUNT * FRAMES / RATE
    with hosting(site, handler) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYING), 20)
        run(driver, f"nervcast.currentTime = {end - 0.5}")
        wait_for(lambda: run(driver, f"nervcast.currentTime > {end - 0.4}"))
        wait_for(lambda: 0.2 < run(driver, "nervcast.currentTime") < 5)
        assert run(driver, "nervcast.loop && !nervcast.paused")
        assert run(driver, "nervcast.statistics.damage") == []


def test_many_seeks_end_at_the_last(site, driver, handler):
    with hosting(site, handler) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYING), 20)
        places = json.dumps([index * FRAMES / RATE for index in range(3, 13)])
        run(driver, f"{places}.forEach((time) => (nervcast.currentTime = time))")
        assert_shows(driver, FAR)
        assert run(driver, "nervcast.currentTime") == pytest.approx(FAR)
        # The index is read once. Seeks that others follow at once ask for nothing.
        assert len(handler.asked) <= 3


def test_a_part_that_comes_too_late_is_left(site, driver, handler):
    handler.is_slow = True
    with hosting(site, handler) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYING), 20)
        run(
            driver,
            "nervcast.addEventListener('seeked', () => (window.seeks = (window.seeks ?? 0) + 1))",
        )
        run(driver, f"nervcast.currentTime = {FAR}")
        wait_for(lambda: len(handler.asked) == 2)
        handler.may_go_on.set()
        wait_for(lambda: run(driver, f"nervcast.currentTime > {FAR + 0.3}"))
        handler.may_answer.set()
        before = run(driver, "nervcast.currentTime")
        time.sleep(1)
        assert run(driver, "nervcast.currentTime") > before + 0.5
        assert run(driver, "window.seeks") == 1
        wait_for(lambda: run(driver, "nervcast.statistics.isComplete"))
        assert run(driver, "nervcast.statistics.damage") == []


def test_without_ranges_any_more_the_clip_is_opened_from_its_start(site, driver, handler):
    with hosting(site, handler) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYING), 20)
        assert_shows(driver, FAR)
        handler.serves_ranges = False
        handler.may_go_on.set()
        assert_shows(driver, 5.5 * FRAMES / RATE)
        wait_for(lambda: run(driver, "nervcast.statistics.isComplete"))
        assert run(driver, "nervcast.statistics.damage") == []


def test_a_host_that_is_gone_ends_a_seek_back(site, driver, handler):
    with hosting(site, handler) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYING), 20)
        assert_shows(driver, FAR)
        wait_for(lambda: run(driver, "nervcast.statistics.isComplete"))
    run(driver, "nervcast.currentTime = 3")
    wait_for(lambda: driver.find_element("id", "notice").text)


def test_a_seek_waits_on_hosts_without_ranges(site, driver, handler):
    class Deaf(handler):
        serves_ranges = False

    with hosting(site, Deaf) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYING), 20)
        run(driver, f"nervcast.currentTime = {FAR}")
        handler.may_go_on.set()
        wait_for(lambda: run(driver, f"nervcast.currentTime > {FAR + 0.2}"))
        assert_shows(driver, FAR)


def test_ranges_of_another_origin(site, driver, handler, tmp_path):
    class Sharing(handler, SharingHandler):
        pass

    with hosting(site, Sharing) as library:
        page = tmp_path / "page"
        page.mkdir()
        (page / "index.html").write_text(
            f"""<!doctype html><title>film</title><canvas id="film"></canvas><script type="module">
            import {{ NervPlayer }} from "{library}/nervcast.js";
            window.nervcast = new NervPlayer(document.getElementById("film"));
            await nervcast.load("{library}/film.nerv");
            nervcast.play();
            </script>"""
        )
        with hosting(page, Handler) as url:
            driver.get(url)
            wait_for(lambda: run(driver, PLAYING), 20)
            assert_shows(driver, FAR)
            assert len(handler.asked) == 2
