"""What viewers do with the page: keys, clips, timelines of their own, and a server that goes away."""

import signal
import socket
import subprocess
import sys

import pytest
from chromium import CHROMIUM, DRIVER, is_ready, serving
from helpers import SAMPLE
from waiting import wait_for

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no Chromium: sh tests/support/install_peers.sh"
    ),
]

STATE = """
const done = arguments[arguments.length - 1];
fetch(`/api/sessions/${window.nervcast.id}${location.search}`).then((answer) => answer.json()).then(done);
"""


class Page:
    """The page in a browser, and what the server says of its session."""

    def __init__(self, driver, url):
        self._driver = driver
        driver.get(url)
        self.waits_until_live()

    def waits_until_live(self):
        wait_for(
            lambda: (
                self.text("state") == "live"
                and self.run("return document.getElementById('video').videoWidth")
            ),
            30,
        )

    def run(self, script):
        return self._driver.execute_script(script)

    def text(self, name):
        return self._driver.find_element("id", name).text

    def presses(self, keys):
        self._driver.find_element("tag name", "body").send_keys(keys)

    def comes_to(self, **expected):
        wait_for(lambda: {key: self.state()[key] for key in expected} == expected)

    def state(self):
        return self._driver.execute_async_script(STATE)


def test_keys_clips_and_timelines(driver, tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.nerv").write_bytes(SAMPLE.read_bytes())
    with serving("--max-private", "1", cwd=tmp_path) as (_, url):
        page = Page(driver, url)
        page.comes_to(clip="first", playing=True, loop=True, speed=1, private=False)
        page.presses(" ")
        page.comes_to(playing=False)
        before = page.state()["frame"]
        page.presses(".")
        page.comes_to(frame=before + 1)
        page.presses(",")
        page.comes_to(frame=before)
        page.presses("l")
        page.comes_to(loop=False)
        page.presses("[")
        page.comes_to(speed=0.5)
        page.presses("p")
        page.comes_to(private=True, clip="first")
        assert page.text("audience") == "Just you"
        page.presses("p")
        page.comes_to(private=False)
        page.presses("n")
        page.comes_to(clip="second", playing=True)
        names = [
            entry.text.splitlines()[0]
            for entry in driver.find_elements("css selector", "#clips li")
        ]
        assert names == ["first", "second", "all clips"]
        driver.find_elements("css selector", "#clips li button")[2].click()
        page.comes_to(clip="all clips", item="first")
        driver.find_elements("css selector", "#playlist li button")[1].click()
        page.comes_to(item="second")
        page.presses("?")
        wait_for(lambda: page.run("return document.getElementById('help').open"))
        sizes = page.run(
            "return [...document.querySelectorAll('#clips img')].map((image) => image.naturalWidth)"
        )
        assert sizes == [320] * 3
        severe = [
            entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"
        ]
        assert [
            message for message in severe if "thumbnail.jpg" not in message
        ] == []  # some were not decoded at first


def test_page_comes_back_with_its_server(driver, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "player", "serve", "--port", str(port), "--drain-seconds", "0"]
    url = f"http://127.0.0.1:{port}"

    def start():
        return subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)

    def is_there():
        try:
            return is_ready(url)
        except OSError:
            return False

    server = start()
    try:
        wait_for(is_there)
        page = Page(driver, url)
        server.send_signal(signal.SIGKILL)
        server.wait()
        wait_for(lambda: page.text("state") != "live", 30)
        server = start()
        wait_for(is_there)
        page.waits_until_live()
        assert page.state()["clip"] == "bunny"
    finally:
        server.kill()
        server.wait()


def test_page_without_its_token_says_what_it_needs(driver, tmp_path):
    with serving("--token", "correct horse", cwd=tmp_path) as (_, url):
        driver.get(url)
        notice = wait_for(
            lambda: (
                driver.find_element("id", "state").get_attribute("data-phase") == "failed"
                and driver.find_element("id", "notice").text
            )
        )
        assert "token" in notice
        state = Page(driver, f"{url}/?token=correct%20horse").state()
        assert (state["clip"], state["may_control"]) == ("bunny", True)
