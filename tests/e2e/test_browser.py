"""The whole way in a real browser: fit, export, serve, watch, seek, stop."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from chromium import serving
from helpers import moving_square
from waiting import wait_for

pytestmark = pytest.mark.alone

STATISTICS = """
const done = arguments[arguments.length - 1];
window.nervcast.statistics().then((inbound) => {
  const panel = Object.fromEntries([...document.querySelectorAll('dd b')].map((b) => [b.id, Number(b.textContent)]));
  done({decoded: inbound.framesDecoded, freezes: inbound.freezeCount, at: performance.now(), panel});
});
"""


@pytest.mark.parametrize(
    "command", ["chromium", "chromedriver", "firefox-esr", "janus", "pulseaudio"]
)
def test_players_peers_are_there_in_ci(command):
    assert os.environ.get("CI") != "true" or shutil.which(command), (
        "sh tests/support/install_peers.sh"
    )


def children(pid):
    return [
        child
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def test_from_video_to_browser(driver, tmp_path, write_video):
    write_video(
        np.concatenate([moving_square(30, 90, 160), 255 - moving_square(30, 90, 160)]), "clip.mp4"
    )
    for command in ("encoder fit clip.mp4 --epochs 4", "export onnx"):
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            cwd=tmp_path,
            capture_output=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    with serving(cwd=tmp_path) as (server, url):
        driver.get(url)
        wait_for(
            lambda: driver.execute_script("return document.getElementById('video').videoWidth")
        )
        plays_at_the_clips_rate(driver)
        seeks(driver)
        pauses(driver)
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
        assert children(server.pid) == []
        driver.get("about:blank")
        server.send_signal(signal.SIGTERM)
        # Its threads are not daemons: had one been left, the process would not end.
        assert server.wait(10) == 0
        joined, left = server.stderr.read().splitlines()
        assert "joined (H264, 1 in all)" in joined
        assert "left (0 remain)" in left


def plays_at_the_clips_rate(browser):
    time.sleep(1)
    first = browser.execute_async_script(STATISTICS)
    time.sleep(5)
    last = browser.execute_async_script(STATISTICS)
    rate = 1000 * (last["decoded"] - first["decoded"]) / (last["at"] - first["at"])
    assert last["decoded"] - first["decoded"] >= 100
    assert rate == pytest.approx(25, rel=0.05)
    assert last["freezes"] == 0
    panel = last["panel"]
    assert panel["sent-fps"] == pytest.approx(25, rel=0.1)
    assert panel["received-fps"] == pytest.approx(25, rel=0.1)
    assert panel["decode-fps"] > 25
    assert panel["encode-fps"] > 25
    assert panel["bitrate"] > 0
    for name in ("decode-fps", "bitrate"):  # it is measured anew each time, of a picture that moves
        wait_for(
            lambda name=name: browser.execute_async_script(STATISTICS)["panel"][name] != panel[name]
        )


def seeks(browser):
    """The second half of the clip is the negative of the first: seeking changes the brightness of a corner."""
    browser.find_element("id", "play").click()
    corners = []
    for frame in (10, 40):
        browser.execute_script(
            "const s = document.getElementById('seek'); s.value = arguments[0];"
            "for (const kind of ['input', 'change']) s.dispatchEvent(new Event(kind));",
            frame,
        )
        wait_for(
            lambda frame=frame: (
                browser.execute_script("return document.getElementById('seek').value") == str(frame)
            )
        )
        time.sleep(1)
        corners.append(brightness(browser))
        assert browser.execute_script("return document.getElementById('seek').value") == str(frame)
    assert corners[1] - corners[0] > 80


def pauses(browser):
    position = "return document.getElementById('time').textContent"
    before = browser.execute_script(position)
    time.sleep(1)
    assert browser.execute_script(position) == before
    browser.find_element("id", "play").click()
    wait_for(lambda: browser.execute_script(position) != before)


def brightness(browser):
    """Return the red of the top left corner of the picture that is shown."""
    return browser.execute_script(
        "const c = document.createElement('canvas'); c.width = c.height = 8;"
        "const g = c.getContext('2d'); g.drawImage(document.getElementById('video'), 0, 0, 8, 8, 0, 0, 8, 8);"
        "return g.getImageData(4, 4, 1, 1).data[0]"
    )
