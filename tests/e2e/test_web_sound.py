"""Sound that is decoded in the browser: heard at the flashes, silent when it should be."""

import json

import pytest
from beeps import FIT, is_in_time, skews, write_beeps
from chromium import faults, run
from firefox import FIREFOX, Firefox
from helpers import SAMPLE
from hosting import hosting
from listening import LISTEN
from loudspeaker import PULSEAUDIO, loudspeaker
from waiting import wait_for

from encoder.cli.main import main as encoder_main
from export.cli.main import main as export_main

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A site with a clip of flashes and beeps."""
    path = tmp_path_factory.mktemp("sound")
    source = write_beeps(path / "beeps.mkv")
    clip = path / "beeps.nerv"
    fit = ["fit", str(source), "-o", str(clip), *FIT]
    assert encoder_main(fit) == 0
    assert export_main(["web", str(clip), "-o", str(path / "site")]) == 0
    return path / "site"


def test_beeps_are_heard_at_the_flashes_in_chromium(folder, driver):
    with hosting(folder) as url:
        driver.get(url)
        wait_for(
            lambda: run(driver, "window.nervcast?.hasSound && nervcast.currentTime > 0") is True
        )
        assert run(driver, LISTEN) is True
        assert run(driver, "nervcast.muted")
        button = driver.find_element("id", "mute")
        assert button.get_attribute("aria-label") == "Unmute"
        button.click()
        wait_for(lambda: run(driver, "heard.length") >= 6, 20)
        found = skews(run(driver, "heard"), run(driver, "seen"))
        assert is_in_time(found), found
        assert faults(driver) == []
        # Silent at other speeds, while paused, and muted.
        for silence, sound in (
            ("nervcast.playbackRate = 0.5", "nervcast.playbackRate = 1"),
            ("nervcast.pause()", "nervcast.play()"),
            ("nervcast.muted = true", "nervcast.muted = false"),
        ):
            run(driver, silence)
            wait_for(lambda: run(driver, "performance.now() - heard.at(-1) > 1500"), 20)
            count = run(driver, "heard.length")
            run(driver, sound)
            wait_for(lambda count=count: run(driver, "heard.length") > count, 20)


def test_sound_follows_a_seek(folder, driver):
    with hosting(folder) as url:
        driver.get(url)
        wait_for(
            lambda: run(driver, "window.nervcast?.hasSound && nervcast.currentTime > 0") is True
        )
        run(driver, LISTEN)
        driver.find_element("tag name", "body").send_keys("m")
        wait_for(lambda: run(driver, "heard.length"), 20)
        run(driver, "nervcast.currentTime = 1.7")
        moment = run(driver, "performance.now()")
        wait_for(lambda: run(driver, f"heard.some((each) => each > {moment} + 200)"), 20)
        beep = run(driver, f"heard.find((each) => each > {moment} + 200)")
        assert beep - moment == pytest.approx(300, abs=200)


def test_volume_is_set_by_keys_and_remembered(folder, driver):
    with hosting(folder) as url:
        driver.get(url)
        wait_for(lambda: run(driver, "window.nervcast?.hasSound") is True)
        body = driver.find_element("tag name", "body")
        body.send_keys("\ue015\ue015\ue015")  # arrow down
        assert run(driver, "nervcast.volume") == pytest.approx(0.7)
        assert not run(driver, "nervcast.muted")
        body.send_keys("\ue013")
        body.send_keys("m")
        assert run(driver, "nervcast.muted")
        driver.refresh()
        wait_for(lambda: run(driver, "window.nervcast?.hasSound") is True)
        assert run(driver, "nervcast.volume") == pytest.approx(0.8)
        assert "80 %" in driver.find_element("id", "mute").get_attribute("title")


def test_clips_without_sound_have_no_button(driver, tmp_path):
    assert export_main(["web", str(SAMPLE), "-o", str(tmp_path / "site")]) == 0
    with hosting(tmp_path / "site") as url:
        driver.get(url)
        wait_for(lambda: run(driver, "window.nervcast?.currentTime > 0.3") is True, 20)
        assert not run(driver, "nervcast.hasSound")
        assert driver.find_elements("id", "mute") == []
        loaded = run(driver, "performance.getEntriesByType('resource').map(({ name }) => name)")
        assert not any("soundtrack" in name or "volume" in name for name in loaded)


@pytest.mark.skipif(
    not (FIREFOX and PULSEAUDIO), reason="no Firefox: sh tests/support/install_peers.sh"
)
async def test_beeps_are_heard_at_the_flashes_in_firefox(folder, tmp_path):
    loud = {"media.autoplay.default": 0, "media.autoplay.block-webaudio": False}
    with loudspeaker(tmp_path), hosting(folder) as url:
        async with Firefox(tmp_path / "profile", loud) as firefox:
            await firefox.open(url)
            found = await firefox.evaluate(f"""
            (async () => {{
              const until = async (holds) => {{
                while (!holds()) await new Promise((resolve) => setTimeout(resolve, 50));
              }};
              await until(() => window.nervcast?.hasSound && nervcast.currentTime > 0);
              {LISTEN.strip()};
              nervcast.muted = false;
              await until(() => heard.length >= 6);
              return JSON.stringify([heard, seen]);
            }})()""")
            found = skews(*json.loads(found))
            assert is_in_time(found), found
