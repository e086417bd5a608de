"""Drives Firefox without geckodriver, by the protocol that it speaks itself: WebDriver BiDi."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import aiohttp

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
START_SECONDS = 60.0
ANSWER_SECONDS = 60.0
CLOSE_SECONDS = 10.0
QUIET = {
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.region.network.url": "",
    "datareporting.policy.dataSubmissionEnabled": False,
    "datareporting.policy.dataSubmissionPolicyBypassNotification": True,
    "dom.push.connection.enabled": False,
    "media.gmp-manager.updateEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.dns.forceResolve": "127.0.0.1",
    "nimbus.rollouts.enabled": False,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
    "toolkit.telemetry.server": "",
    "toolkit.telemetry.unified": False,
}
"""What Firefox does not turn off by itself before it is driven: updates, telemetry, the download of OpenH264.

Any other name on the network is this machine. Nothing here touches WebRTC: that has to work in an unchanged Firefox.
"""


class FirefoxError(Exception):
    """Firefox did not start, or reports an error."""


class Firefox:
    """A headless Firefox with one tab and a new profile in a folder.

    async with Firefox(folder) as firefox:
        await firefox.open(url)
        title = await firefox.evaluate("document.title")

    It does one thing at a time.
    """

    def __init__(
        self, profile: Path, preferences: Mapping[str, bool | int | str] = MappingProxyType({})
    ) -> None:
        self._profile = profile
        self._preferences = QUIET | dict(preferences)
        self._numbers = itertools.count()
        self._closing = contextlib.AsyncExitStack()
        self._socket: aiohttp.ClientWebSocketResponse
        self._tab = ""

    async def __aenter__(self) -> Self:
        """Start the browser."""
        if FIREFOX is None:
            raise FirefoxError("no Firefox: sh tests/support/install_peers.sh")
        self._profile.mkdir()
        lines = (
            f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
            for name, value in self._preferences.items()
        )
        (self._profile / "user.js").write_text("".join(lines))
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the browser."""
        await self.close()

    async def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        await self._call("browsingContext.navigate", context=self._tab, url=url, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, which may be a promise of what JSON can tell."""
        # The protocol describes objects at length, JSON.stringify() briefly.
        result = await self._call(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({expression})))()",
            target={"context": self._tab},
            awaitPromise=True,
            userActivation=True,
        )
        if result["type"] == "exception":
            raise FirefoxError(result["exceptionDetails"]["text"])
        text = result["result"].get("value")
        return None if text is None else json.loads(text)

    async def screenshot(self, path: Path) -> None:
        """Write what the window shows as a PNG image."""
        result = await self._call("browsingContext.captureScreenshot", context=self._tab)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(result["data"]))

    async def close(self) -> None:
        """End the browser."""
        await self._closing.aclose()

    async def _start(self) -> None:
        command = [
            FIREFOX,
            "--headless",
            "--no-remote",
            "--remote-debugging-port=0",
            "--profile",
            self._profile,
            "about:blank",
        ]
        # A session of its own, so that its helper processes can be ended with it.
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
        )
        self._closing.push_async_callback(_end, process)
        while (address := self._address()) is None:
            if process.returncode is not None:
                raise FirefoxError(
                    f"Firefox ended at its start with exit code {process.returncode}"
                )
            await asyncio.sleep(0.05)
        http = await self._closing.enter_async_context(aiohttp.ClientSession())
        self._socket = await self._closing.enter_async_context(
            http.ws_connect(f"ws://{address}/session", max_msg_size=0)
        )
        await self._call("session.new", capabilities={})
        self._closing.push_async_callback(self._call, "browser.close")
        self._tab = (await self._call("browsingContext.getTree"))["contexts"][0]["context"]

    def _address(self) -> str | None:
        """Return where it can be driven, once it has written that down."""
        try:
            found = json.loads((self._profile / "WebDriverBiDiServer.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return f"{found['ws_host']}:{found['ws_port']}"

    async def _call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(ANSWER_SECONDS):
            while (answer := await self._socket.receive_json()).get("id") != number:
                pass  # an event
        if answer["type"] == "error":
            raise FirefoxError(f"{method}: {answer['error']}: {answer['message']}")
        return answer["result"]


async def _end(process: Process) -> None:
    """Wait until a browser that was told to close has ended, and end what is left of it."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
