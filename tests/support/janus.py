"""Starts Janus, a media server (SFU) of other people's, to publish to; and the WHIP endpoint that it lacks."""

import asyncio
import contextlib
import secrets
import shutil
import socket
from asyncio.subprocess import STDOUT, Process
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web
from load import Watcher

JANUS = shutil.which("janus")
START_SECONDS = 20.0
ANSWER_SECONDS = 20.0
MODULES = {"plugins": "libjanus_videoroom.so", "transports": "libjanus_http.so"}
"""What is loaded, of much more that there is."""
SETTINGS = {
    "janus.jcfg": """
general: {{
  plugins_folder = "{folder}/plugins"
  transports_folder = "{folder}/transports"
  events_folder = "{folder}/none"
  loggers_folder = "{folder}/none"
  session_timeout = 0
}}
media: {{ ipv6 = false }}
""",
    "janus.transport.http.jcfg": """
general: {{ http = true, ip = "127.0.0.1", port = {port}, https = false }}
admin: {{ admin_http = false, admin_https = false }}
""",
    "janus.plugin.videoroom.jcfg": """
general: {{ string_ids = true }}
""",
}


class JanusError(Exception):
    """Janus did not start, or reports an error."""


class Janus:
    """A Janus of one's own, with its files in a new folder.

    It listens on 127.0.0.1, but for media it passes loopback over: those sockets are bound to the addresses of the machine's
    network interfaces, without which it does not work. A peer has to offer one of these, too: from 127.0.0.1 alone it is not
    found. Nothing leaves the machine all the same where both are on it.

    async with Janus(folder) as janus:
        publisher = await janus.attach()
        answer = await publisher.publish("room", offer)
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._url = ""
        self._http: aiohttp.ClientSession
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start it."""
        if JANUS is None:
            raise JanusError("no Janus: sh tests/support/install_peers.sh")
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._start()
        except BaseException:
            await self._closing.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it."""
        await self._closing.aclose()

    async def attach(self) -> "Peer":
        """Return a new peer, to publish or to subscribe."""
        session = f"{self._url}/{(await self.ask(self._url, janus='create'))['data']['id']}"
        handle = await self.ask(session, janus="attach", plugin="janus.plugin.videoroom")
        return Peer(self, session, f"{session}/{handle['data']['id']}")

    async def ask(self, url: str, **message: Any) -> dict[str, Any]:
        """Send a message; return the answer, which may be that there will be an event. Raises JanusError."""
        async with self._http.post(url, json={"transaction": "test", **message}) as response:
            return _checked(await response.json())

    async def event(self, session: str) -> dict[str, Any]:
        """Return a session's next event that is the answer to a message."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                async with self._http.get(session) as response:
                    event = _checked(await response.json())
                if "transaction" in event:
                    return event

    async def _start(self) -> None:
        port = await asyncio.to_thread(_configure, self._folder)
        with (self._folder / "log").open("wb") as log:
            command = [JANUS, "--configs-folder", self._folder]
            process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=STDOUT)
        self._closing.push_async_callback(_end, process)
        self._http = await self._closing.enter_async_context(aiohttp.ClientSession())
        self._url = f"http://127.0.0.1:{port}/janus"
        while process.returncode is None:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                await self.ask(self._url, janus="ping")
                return
            await asyncio.sleep(0.05)
        raise JanusError(f"Janus ended at its start: see {self._folder}/log")


class Peer:
    """A session with the VideoRoom, for one connection."""

    def __init__(self, janus: Janus, session: str, handle: str) -> None:
        self._janus, self._session, self._handle = janus, session, handle

    async def publish(self, room: str, offer: str) -> str:
        """Publish in a room, which is made where it is not there; return the answer to an offer."""
        with contextlib.suppress(JanusError):  # it is there
            await self._ask(request="create", room=room, publishers=8, videocodec="h264,vp8")
        answer = await self._ask(offer, request="joinandconfigure", ptype="publisher", room=room)
        return answer["jsep"]["sdp"]

    async def subscribe(self, room: str) -> str:
        """Subscribe to the first who publishes in a room; return Janus' offer, to be answered with start()."""
        there = (await self._ask(request="listparticipants", room=room))["plugindata"]["data"][
            "participants"
        ]
        publishers = [each["id"] for each in there if each["publisher"]]
        if not publishers:
            raise JanusError(f"nobody publishes in room {room!r}")
        event = await self._ask(
            request="join", ptype="subscriber", room=room, streams=[{"feed": publishers[0]}]
        )
        return event["jsep"]["sdp"]

    async def start(self, answer: str) -> None:
        """Answer Janus' offer."""
        await self._ask(answer, kind="answer", request="start")

    async def close(self) -> None:
        """Leave."""
        await self._janus.ask(self._session, janus="destroy")

    async def _ask(
        self, sdp: str | None = None, kind: str = "offer", **body: Any
    ) -> dict[str, Any]:
        description = {} if sdp is None else {"jsep": {"type": kind, "sdp": sdp}}
        answer = await self._janus.ask(self._handle, janus="message", body=body, **description)
        return await self._janus.event(self._session) if answer["janus"] == "ack" else answer


def make_whip(janus: Janus, *, token: str | None = None) -> web.Application:
    """Return an application that takes WHIP publishers (RFC 9725) into Janus' rooms, at /whip/ROOM."""
    peers: dict[str, Peer] = {}
    routes = web.RouteTableDef()

    def check(request: web.Request) -> None:
        if token is not None and request.headers.get("Authorization") != f"Bearer {token}":
            raise web.HTTPUnauthorized

    @routes.post("/whip/{room}")
    async def publish(request: web.Request) -> web.Response:
        check(request)
        if request.content_type != "application/sdp":
            raise web.HTTPUnsupportedMediaType
        peer = await janus.attach()
        try:
            answer = await peer.publish(request.match_info["room"], await request.text())
        except JanusError as error:
            await peer.close()
            raise web.HTTPBadRequest(text=str(error)) from None
        name = secrets.token_urlsafe(8)
        peers[name] = peer
        headers = {"Location": f"{request.path}/{name}"}
        return web.Response(
            status=201, text=answer, content_type="application/sdp", headers=headers
        )

    @routes.delete("/whip/{room}/{name}")
    async def leave(request: web.Request) -> web.Response:
        check(request)
        peer = peers.pop(request.match_info["name"], None)
        if peer is None:
            raise web.HTTPNotFound
        await peer.close()
        return web.Response()

    app = web.Application()
    app.add_routes(routes)
    return app


async def subscribe(janus: Janus, room: str, watcher: Watcher) -> Peer:
    """Let a viewer watch who publishes in a room; close what this returns at the end."""
    peer = await janus.attach()
    await peer.start(await watcher.answer(await peer.subscribe(room)))
    return peer


def _configure(folder: Path) -> int:
    """Write the settings and say what is loaded; return the port, which is free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "none").mkdir(parents=True)
    for name, text in SETTINGS.items():
        (folder / name).write_text(text.format(folder=folder, port=port))
    for kind, module in MODULES.items():
        (folder / kind).mkdir()
        (folder / kind / module).symlink_to(next(Path("/usr/lib").glob(f"*/janus/{kind}/{module}")))
    return port


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    error = answer.get("error") or answer.get("plugindata", {}).get("data", {})
    reason = error.get("reason") or error.get("error")
    if reason is not None:
        raise JanusError(reason)
    return answer


async def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(10):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
