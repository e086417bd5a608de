"""A ladder that browsers decode: it follows the line and the machine, without a gap, or the viewer's choice."""

import time

import pytest
from beeps import is_in_time, skews, write_beeps
from chromium import faults, run, serving
from firefox import FIREFOX, Firefox
from hosting import Handler, hosting
from listening import LISTEN
from waiting import wait_for

from encoder.cli.main import main as encoder_main
from encoder.codec.ladder import Ladder
from export.cli.main import main as export_main

pytestmark = pytest.mark.alone

RUNGS = ["16x16@9kB", "32x32@12kB"]
PLAYS = "window.nervcast?.currentTime > 0.1 && nervcast.rungs.length === 2"
LIMITED = 5000
"""Bytes per second of a line that carries the smaller rung alone."""


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """A ladder of flashes and beeps."""
    folder = tmp_path_factory.mktemp("ladder")
    source = write_beeps(folder / "film.mkv")
    fit = ["fit", str(source), "-o", str(folder / "film.json"), "--size", "XS", "--epochs", "20"]
    assert encoder_main([*fit, "--segment-frames", "25", "--ladder", *RUNGS]) == 0
    return folder / "film.json"


@pytest.fixture(scope="module")
def folder(ladder):
    """A site with the ladder."""
    site = ladder.parent / "site"
    assert export_main(["web", str(ladder), "-o", str(site)]) == 0
    return site


def test_larger_rung_comes_without_a_gap_in_picture_and_sound(folder, driver):
    with hosting(folder) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYS) is True, 20)
        assert run(driver, LISTEN) is True
        note = "(() => { window.changedAt = nervcast.currentTime; })"
        run(driver, f"nervcast.addEventListener('rungchange', {note})")
        driver.find_element("id", "mute").click()
        wait_for(lambda: run(driver, "nervcast.rung") == 1, 20)
        assert run(driver, "changedAt") % 1 < 0.1  # a segment begins at each second
        assert run(driver, "[nervcast.videoWidth, nervcast.videoHeight]") == [32, 32]
        wait_for(lambda: run(driver, "heard.length") >= 6, 20)
        found = skews(run(driver, "heard"), run(driver, "seen"))
        assert is_in_time(found), found
        assert run(driver, "nervcast.statistics.lateFrames") <= 2
        assert run(driver, "nervcast.statistics.damage") == []
        assert driver.find_element("id", "rung").get_attribute("value") == ""
        name = run(driver, "document.getElementById('rung').options[0].text")
        assert name.startswith("Auto (32\u00d732, ")
        assert faults(driver) == []


def test_viewers_choose_a_rung_while_it_plays_and_in_a_pause(folder, driver):
    with hosting(folder) as url:
        driver.get(url)
        wait_for(lambda: run(driver, "window.nervcast?.rung") == 1, 20)
        choose = "(index) => { const list = document.getElementById('rung'); list.value = index; "
        choose = f"window.choose = {choose} list.dispatchEvent(new Event('change')); }}"
        run(driver, choose)
        run(driver, "choose('0')")
        wait_for(lambda: run(driver, "nervcast.rung") == 0, 5)
        time.sleep(1.5)
        assert run(driver, "nervcast.rung") == 0
        run(driver, "nervcast.pause()")
        time.sleep(0.3)
        before = run(driver, "nervcast.currentTime")
        run(driver, "choose('1')")
        wait_for(lambda: run(driver, "nervcast.rung") == 1, 5)
        assert run(driver, "document.getElementById('picture').width") == 32
        assert run(driver, "nervcast.currentTime") == before
        run(driver, "nervcast.currentTime = 1.5")
        run(driver, "nervcast.play(), choose('')")
        wait_for(lambda: run(driver, "nervcast.currentTime < 1.5"), 10)
        assert run(driver, "nervcast.rung") == 1
        assert run(driver, "nervcast.wantedRung") is None
        assert faults(driver) == []


class Slow(Handler):
    """A host whose line does not carry the larger rung."""

    def copyfile(self, source, outputfile):
        if not self.path.endswith(".nerv"):
            super().copyfile(source, outputfile)
            return
        while data := source.read(LIMITED // 20):
            outputfile.write(data)
            outputfile.flush()
            time.sleep(1 / 20)


def test_narrow_line_keeps_the_smaller_rung_and_does_not_stop(folder, driver):
    with hosting(folder, Slow) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYS) is True, 20)
        wait_for(lambda: run(driver, "nervcast.statistics.isComplete"), 20)
        begun = run(driver, "nervcast.statistics.lateFrames")
        time.sleep(4)
        assert run(driver, "nervcast.rung") == 0
        assert run(driver, "nervcast.statistics.lateFrames") <= begun + 2
        assert run(driver, "nervcast.statistics.drawnFps") > 20
        assert faults(driver) == []


class Broken(Handler):
    """A host that has lost a rung, the larger one."""

    lost = "32x32"

    def do_GET(self):  # noqa: N802 -- as http.server has it
        if self.lost in self.path:
            self.send_error(404)
        else:
            super().do_GET()


def test_lost_rung_is_left_out_and_told(folder, driver):
    with hosting(folder, Broken) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYS) is True, 20)
        wait_for(lambda: run(driver, "nervcast.statistics.damage.length"), 10)
        [damage] = run(driver, "nervcast.statistics.damage")
        assert "film-32x32-12kB.nerv cannot be played: cannot load" in damage
        wait_for(lambda: run(driver, "nervcast.statistics.drawnFps") > 20, 10)
        assert run(driver, "nervcast.rung") == 0
        # Chosen by hand, it fails again, and the list stands at the automatic choice.
        run(driver, "document.getElementById('rung').value = '1'")
        run(driver, "document.getElementById('rung').dispatchEvent(new Event('change'))")
        wait_for(lambda: len(run(driver, "nervcast.statistics.damage")) == 2, 10)
        wait_for(lambda: run(driver, "document.getElementById('rung').value") == "", 5)


class Rootless(Broken):
    """A host that has lost the smaller rung, which a page opens first."""

    lost = "16x16"


def test_another_rung_is_played_if_the_first_is_lost(folder, driver):
    with hosting(folder, Rootless) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYS) is True, 20)
        assert run(driver, "nervcast.rung") == 1
        assert run(driver, "nervcast.videoWidth") == 32
        assert "film-16x16-9kB.nerv cannot" in run(driver, "nervcast.statistics.damage[0]")


class Narrowing(Handler):
    """A host whose line becomes too narrow for the larger rung in the middle of it."""

    sent = 0

    def copyfile(self, source, outputfile):
        if "32x32" not in self.path:
            super().copyfile(source, outputfile)
            return
        data = source.read()
        outputfile.write(data[:7500])
        outputfile.flush()
        time.sleep(60)


def test_film_that_waits_for_bytes_goes_on_with_the_smaller_rung(folder, driver):
    with hosting(folder, Narrowing) as url:
        driver.get(url)
        wait_for(lambda: run(driver, PLAYS) is True, 20)
        run(driver, "nervcast.loop = false, nervcast.wantedRung = 1, nervcast.currentTime = 0")
        wait_for(lambda: run(driver, "nervcast.rung") == 1, 10)
        run(driver, "nervcast.wantedRung = null")
        # The end of the film is only in the smaller one.
        wait_for(lambda: run(driver, "nervcast.currentTime === nervcast.duration"), 15)
        assert run(driver, "nervcast.rung") == 0
        assert faults(driver) == []


@pytest.mark.parametrize("token", [None, "correct horse"])
def test_server_offers_the_ladder_to_browsers(ladder, driver, tmp_path, token):
    with serving(str(ladder), *(["--token", token] if token else []), cwd=tmp_path) as (_, url):
        driver.get(f"{url}/here/" + (f"?token={token}" if token else ""))
        wait_for(lambda: run(driver, PLAYS) is True, 20)
        wait_for(lambda: run(driver, "nervcast.rung") == 1, 20)
        sizes = [rung.bytes for rung in Ladder.load(ladder).rungs]
        assert run(driver, "nervcast.rungs.map(({ bytes }) => bytes)") == sizes
        assert faults(driver) == []
        address = "fetch('/api/clips/film/clip.nerv' + location.search)"
        whole = f"{address}.then((found) => found.arrayBuffer()).then((found) => found.byteLength)"
        assert run(driver, whole) == sizes[-1]


@pytest.mark.skipif(not FIREFOX, reason="no Firefox: sh tests/support/install_peers.sh")
async def test_larger_rung_comes_in_firefox(folder, tmp_path):
    with hosting(folder) as url:
        async with Firefox(tmp_path / "profile") as firefox:
            await firefox.open(url)
            found = await firefox.evaluate("""
            (async () => {
              while (window.nervcast?.rung !== 1) await new Promise((then) => setTimeout(then, 50));
              const { lateFrames, damage } = nervcast.statistics;
              return JSON.stringify([nervcast.videoWidth, lateFrames <= 2, damage.length]);
            })()""")
            assert found == "[32,true,0]"
