"""The site that `export web` writes, in real browsers, on a plain HTTP server."""

import base64
import shutil
import threading
import time

import numpy as np
import pytest
from chromium import faults, pixels_at, run
from firefox import FIREFOX, Firefox
from golden import DATA
from helpers import SAMPLE
from hosting import Handler, SharingHandler, hosting
from waiting import wait_for

from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from export.cli.main import main
from export.web.folder import write_site

pytestmark = pytest.mark.alone

TIMES = (0.0, 2.6, 5.24)
PLAYING = "nervcast?.currentTime > 0.5 && nervcast.statistics.drawnFps > 5"


class SlowHandler(Handler):
    """Sends all but the end of a clip, and the end once it may."""

    may_end = threading.Event()

    def copyfile(self, source, outputfile):
        data = source.read()
        if self.path.endswith(".nerv"):
            outputfile.write(data[:-100])
            outputfile.flush()
            self.may_end.wait(30)
            data = data[-100:]
        outputfile.write(data)


@pytest.fixture
def site(tmp_path):
    """A site in a folder of a host, with the sample clip."""
    folder = tmp_path / "host" / "films" / "site"
    assert main(["web", str(SAMPLE), "-o", str(folder)]) == 0
    return folder


def notice(driver):
    return driver.find_element("id", "notice").text


def assert_shown(pictures):
    """Compare pictures with those of the reference decoder."""
    clip = Clip.read(SAMPLE)
    expected = ReferenceDecoder(clip).at(np.array(TIMES) * float(clip.header.rate))
    size = (len(TIMES), clip.header.height, clip.header.width, 4)
    shown = np.frombuffer(b"".join(map(base64.b64decode, pictures)), np.uint8).reshape(size)
    assert np.abs(shown[..., :3].transpose(0, 3, 1, 2).astype(int) - expected).max() <= 1


def test_chromium_plays_a_static_folder(site, driver):
    with hosting(site.parents[1]) as url:
        driver.get(f"{url}/films/site/")
        wait_for(lambda: run(driver, PLAYING), 20)
        found = run(driver, "nervcast.statistics")
        assert found["downloadedBytes"] == SAMPLE.stat().st_size
        assert found["isComplete"]
        assert found["damage"] == []
        assert found["memoryBytes"] < 50e6
        assert_shown(run(driver, pixels_at(TIMES)))
        assert faults(driver) == []


def test_keys_and_controls(site, driver):
    with hosting(site) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYING), 20)
        body = driver.find_element("tag name", "body")
        body.send_keys(" ")
        assert run(driver, "nervcast.paused")
        body.send_keys("\ue011")  # Home
        assert run(driver, "nervcast.currentTime") == 0
        body.send_keys(".")
        assert run(driver, "nervcast.currentTime * nervcast.frameRate") == pytest.approx(1)
        body.send_keys("[[")
        assert run(driver, "nervcast.playbackRate") == 0.25
        body.send_keys(" ")
        wait_for(lambda: run(driver, "nervcast.currentTime > 0.1"))
        assert not run(driver, "nervcast.paused")
        body.send_keys("l")
        assert not run(driver, "nervcast.loop")
        run(driver, "nervcast.currentTime = nervcast.duration - 0.1")
        run(driver, "nervcast.playbackRate = 1")
        wait_for(lambda: run(driver, "nervcast.paused"))
        assert run(driver, "nervcast.currentTime") == pytest.approx(132 / 25)


def test_clips_of_a_site_can_be_chosen(site, driver, tiny_file):
    write_site([SAMPLE, tiny_file], site)
    with hosting(site) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYING), 20)
        run(driver, "document.getElementById('clip').selectedIndex = 1")
        run(driver, "document.getElementById('clip').dispatchEvent(new Event('change'))")
        size = list(map(float, [Clip.read(tiny_file).header.width]))
        wait_for(lambda: [float(run(driver, "nervcast.videoWidth"))] == size)
        wait_for(lambda: run(driver, "nervcast.currentTime > 0"))
        assert run(driver, "document.getElementById('title').textContent") == tiny_file.stem


def test_clips_play_while_they_arrive(site, driver):
    path = DATA / "v2-pyramid.nerv"
    clip = Clip.read(path)
    shutil.rmtree(site)
    write_site([path], site)
    arrived = clip.segments[-1].start / float(clip.header.rate)
    with hosting(site, SlowHandler) as url:
        driver.get(url)
        # The clock stops where the rest has not arrived yet.
        wait_for(lambda: run(driver, f"window.nervcast?.currentTime >= {arrived}") is True)
        time.sleep(0.5)
        assert run(driver, "nervcast.currentTime") == pytest.approx(arrived, abs=0.1)
        assert run(driver, "nervcast.buffered") == pytest.approx(arrived)
        assert not run(driver, "nervcast.paused")
        SlowHandler.may_end.set()
        wait_for(lambda: run(driver, "nervcast.statistics.isComplete"))
        whole = clip.header.duration_seconds
        wait_for(lambda: run(driver, "nervcast.buffered") == pytest.approx(whole))


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"not a clip at all", "not a nervcast clip"), (b"NERV\x02\x00\x00\x00", "clip ends before")],
)
def test_strangers_files_are_refused_with_a_line(site, driver, data, message):
    (site / SAMPLE.name).write_bytes(data)
    with hosting(site) as url:
        driver.get(url)
        wait_for(lambda: notice(driver) not in {"", "loading…"})
        assert message in notice(driver)
        assert run(driver, "document.getElementById('play').disabled")


def test_another_origin_may_use_the_player(site, driver, tmp_path):
    with hosting(site, SharingHandler) as library:
        page = tmp_path / "page"
        page.mkdir()
        (page / "index.html").write_text(
            f"""<!doctype html><title>film</title><canvas id="film"></canvas><script type="module">
            import {{ NervPlayer }} from "{library}/nervcast.js";
            window.nervcast = new NervPlayer(document.getElementById("film"));
            nervcast.loop = true;
            await nervcast.load("{library}/{SAMPLE.name}");
            nervcast.play();
            </script>"""
        )
        with hosting(page) as url:
            driver.get(url)
            wait_for(lambda: run(driver, f"window.{PLAYING}"), 20)
            assert_shown(run(driver, pixels_at(TIMES)))


@pytest.mark.skipif(FIREFOX is None, reason="no Firefox: sh tests/support/install_peers.sh")
async def test_firefox_plays_a_static_folder(site, tmp_path):
    with hosting(site) as url:
        async with Firefox(tmp_path / "profile") as firefox:
            await firefox.open(url)
            assert await firefox.evaluate(f"""
            new Promise((resolve) => {{
              const timer = setInterval(() => {{
                if (!(window.{PLAYING})) return;
                clearInterval(timer);
                resolve(true);
              }}, 50);
            }})""")
            assert_shown(await firefox.evaluate(pixels_at(TIMES)))
