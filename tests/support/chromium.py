"""Chromium without a screen, and servers to watch with it."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from waiting import wait_for

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1120,1000",
]
PIXELS = """
(async () => {
  const found = [];
  for (const time of TIMES) {
    const picture = await nervcast.frame(time);
    const context = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
    context.drawImage(picture, 0, 0);
    const { data } = context.getImageData(0, 0, picture.width, picture.height);
    let text = "";
    for (let at = 0; at < data.length; at += 4096) text += String.fromCharCode(...data.subarray(at, at + 4096));
    found.push(btoa(text));
  }
  return found;
})()
"""
VP8_ALONE = """
const add = RTCPeerConnection.prototype.addTransceiver;
RTCPeerConnection.prototype.addTransceiver = function (...rest) {
  const transceiver = add.apply(this, rest);
  const codecs = RTCRtpReceiver.getCapabilities("video").codecs;
  transceiver.setCodecPreferences(codecs.filter(({ mimeType }) => mimeType === "video/VP8"));
  return transceiver;
};
"""
"""Makes a browser offer no H.264."""
FIRST_PICTURE = """
addEventListener("DOMContentLoaded", () => {
  document.getElementById("video").requestVideoFrameCallback((now) => { window.firstPicture = now; });
});
"""
"""Notes when the first picture is shown."""


SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
"""Flags for WebGPU on a machine without a GPU."""


@contextmanager
def browsing(profile: Path, *flags: str):
    """Start Chromium, with further flags; give its driver."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def faults(driver) -> list[str]:
    """Return what the page's console has of errors, refusals by its policy among them."""
    return [each["message"] for each in driver.get_log("browser") if each["level"] == "SEVERE"]


def run(driver, expression: str):
    """Return the value of an expression in the page, or what a promise of it resolves to."""
    return driver.execute_async_script(
        f"const done = arguments[0]; Promise.resolve({expression}).then(done, (error) => done(String(error)));"
    )


def pixels_at(times) -> str:
    """Return an expression of what the page that decodes shows at times in seconds: RGBA in base 64."""
    return PIXELS.replace("TIMES", json.dumps(list(times)))


def before_each_page(driver, script: str) -> None:
    """Have a script run before those of each page."""
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})


@contextmanager
def serving(*arguments: str, cwd: Path):
    """Start `player serve`, and wait until it is ready; give its process and its address."""
    command = [sys.executable, "-m", "player", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = next(
                line.split(" at ")[1].split()[0] for line in server.stderr if " at http" in line
            )
            wait_for(lambda: is_ready(url))
            yield server, url
        finally:
            server.kill()


def is_ready(url: str) -> bool:
    """Return whether a server has decoded its first frame."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(f"{url}/readyz") as response:
            return response.status == 200
    except HTTPError as error:
        error.close()
        return False
