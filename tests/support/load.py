"""Opens viewers of a server (WHEP) and counts what each receives, without decoding it.

python tests/support/load.py http://127.0.0.1:8080 --viewers 64 --seconds 30

prints one JSON object. The address is the server's, whose first clip is watched then, or a clip's: http://…/whep/NAME.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import aioice.ice
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack
from relay import Relay, without_candidates
from waiting import until
from yarl import URL

WAVE = 8
"""Viewers who join at the same time: more would make each other late, and the server."""
JOIN_SECONDS = 20.0
H264_KEY_UNITS = (5, 7)
"""Types of the unit that a key frame starts with: its picture, or first the parameters that it needs."""


class JoinError(Exception):
    """The server refused a viewer, or none of its packets came."""


class Http(Protocol):
    """What aiohttp's ClientSession and its TestClient have in common."""

    post: Any
    delete: Any


class FrameCounter:
    """Takes the place of a receiver's queue of complete frames: counts them, and gives the decoder nothing but the end."""

    def __init__(self) -> None:
        self.frames = 0
        """Complete frames."""
        self.keyframes = 0
        """Those among them that need no others."""
        self.longest_gap = 0.0
        """Most seconds between two frames."""
        self.first = asyncio.Event()
        self._last: float | None = None
        self._end = threading.Event()

    def put(self, task: Any) -> None:
        """Count a frame; runs in the event loop, so that no thread has to wake up for it."""
        if task is None:
            self._end.set()
            return
        codec, frame = task
        now = time.monotonic()
        self.longest_gap = max(self.longest_gap, now - (self._last or now))
        self._last = now
        self.frames += 1
        self.keyframes += _is_keyframe(codec.name, frame.data)
        self.first.set()

    def get(self) -> None:
        """Wait for the end; this is where the decoder's thread stays."""
        self._end.wait()

    def restart(self) -> None:
        """Forget the longest gap."""
        self.longest_gap, self._last = 0.0, None


def _is_keyframe(codec: str, data: bytes) -> bool:
    if codec == "VP8":
        return data != b"" and not data[0] & 1
    return len(data) > 4 and data[4] & 31 in H264_KEY_UNITS  # after the start code


class Watcher:
    """One viewer, who counts frames; with `decode` they are decoded instead: take them from `track`.

    It connects from the addresses that aioice knows of, which by itself are all but loopback: see stay_on_loopback().
    Without a server to join(), offer() and accept(), or answer(), make the connection.
    """

    def __init__(
        self,
        http: Http | None = None,
        url: str | URL = "",
        *,
        codec: str | None = None,
        token: str | None = None,
        decode: bool = False,
        relay: Relay | None = None,
    ) -> None:
        self._http, self._url, self._relay = http, URL(url), relay
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._location: URL | None = None
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.plis = self.nacks = 0
        """Key frames and lost packets that were asked for; a NACK may name many packets."""
        self.join_seconds = 0.0
        """From the offer to the first complete frame."""
        self.codec = ""
        """What was agreed on."""
        self.session = ""
        """The session's name."""
        transceiver = self.peer.addTransceiver("video", direction="recvonly")
        if codec is not None:
            known = RTCRtpReceiver.getCapabilities("video").codecs
            transceiver.setCodecPreferences(
                [c for c in known if c.mimeType in (f"video/{codec}", "video/rtx")]
            )
        self._transceiver = transceiver
        self._receiver = transceiver.receiver
        self.counter = None if decode else FrameCounter()
        self._hook()

    def _hook(self) -> None:
        """Count what the receiver sends; hand its frames to the counter rather than to the decoder."""
        receiver = self._receiver
        send_pli, send_nack = receiver._send_rtcp_pli, receiver._send_rtcp_nack

        async def pli(source: int) -> None:
            self.plis += 1
            await send_pli(source)

        async def nack(source: int, lost: list[int]) -> None:
            self.nacks += 1
            await send_nack(source, lost)

        receiver._send_rtcp_pli, receiver._send_rtcp_nack = pli, nack
        if self.counter is not None:
            assert hasattr(receiver, "_RTCRtpReceiver__decoder_queue"), "another aiortc"
            receiver._RTCRtpReceiver__decoder_queue = self.counter
            # A quarter of the work of receiving is to estimate the bandwidth (REMB), of which there is enough here.
            receiver._RTCRtpReceiver__remote_bitrate_estimator = None

    @property
    def track(self) -> MediaStreamTrack:
        """The pictures, where they are decoded: take all of them, as they wait for ever."""
        return self._receiver.track

    @property
    def packets(self) -> int:
        """Packets received, those sent again among them."""
        return sum(stream.packets_received for stream in self._streams())

    @property
    def lost(self) -> int:
        """Packets that never came, though a copy may have come in their stead."""
        return sum(stream.packets_lost for stream in self._streams())

    def _streams(self) -> Sequence[Any]:
        return list(self._receiver._RTCRtpReceiver__remote_streams.values())

    async def offer(self) -> str:
        """Return an offer, with all candidates unless there is a relay."""
        await self.peer.setLocalDescription(await self.peer.createOffer())
        sdp = self.peer.localDescription.sdp
        return sdp if self._relay is None else without_candidates(sdp)

    async def accept(self, answer: str) -> None:
        """Take the answer."""
        sdp = answer if self._relay is None else self._relay.rewrite(answer)
        await self.peer.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        self.codec = self._transceiver._codecs[0].name

    async def answer(self, offer: str) -> str:
        """Answer an offer to send."""
        await self.peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self.peer.setLocalDescription(await self.peer.createAnswer())
        self.codec = self._transceiver._codecs[0].name
        return self.peer.localDescription.sdp

    async def join(self, *, seconds: float = JOIN_SECONDS) -> None:
        """Offer, and wait for the first frame (where they are decoded, only for the connection).

        Raises JoinError where there is none in time, or the server refuses.
        """
        start = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await self.accept(await self._post(await self.offer()))
                await self._connected()
        except TimeoutError:
            raise JoinError(f"nothing came in {seconds:g} s") from None
        self.join_seconds = time.monotonic() - start

    async def _post(self, offer: str) -> str:
        headers = {"Content-Type": "application/sdp", **self._headers}
        async with self._http.post(self._url, data=offer, headers=headers) as response:
            answer = await response.text()
            if response.status != 201:
                raise JoinError(f"{response.status}: {answer}")
            self._location = self._url.join(URL(response.headers["Location"], encoded=True))
            self.session = self._location.name
        return answer

    async def _connected(self) -> None:
        if self.counter is not None:
            await self.counter.first.wait()
            return
        await until(lambda: self.peer.connectionState == "connected")

    async def leave(self) -> None:
        """Tell the server, where there is a session, and close the connection."""
        if self._location is not None:
            async with self._http.delete(self._location, headers=self._headers):
                self._location = None
        await self.peer.close()

    def statistics(self) -> dict[str, float]:
        """Return what only grows: frames, keyframes, plis, nacks, packets, lost."""
        frames = (
            {}
            if self.counter is None
            else {"frames": self.counter.frames, "keyframes": self.counter.keyframes}
        )
        return frames | {
            "plis": self.plis,
            "nacks": self.nacks,
            "packets": self.packets,
            "lost": self.lost,
        }


def stay_on_loopback() -> None:
    """Let viewers of this process connect from 127.0.0.1, and from nowhere else."""
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


async def join_all(watchers: Sequence[Watcher]) -> None:
    """Let viewers join, some at a time."""
    for start in range(0, len(watchers), WAVE):
        await asyncio.gather(*(watcher.join() for watcher in watchers[start : start + WAVE]))


async def measure(
    watchers: Sequence[Watcher], seconds: float, *, pid: int | None = None
) -> dict[str, Any]:
    """Return what viewers who have joined receive in some seconds, each of them and all together.

    Shares of a core are those of this process and, where its number is given, of the sender's.
    """
    before = [watcher.statistics() for watcher in watchers]
    for watcher in watchers:
        watcher.counter.restart()
    start, cpu, sender_cpu = time.monotonic(), time.process_time(), _cpu_seconds(pid)
    await asyncio.sleep(seconds)
    seconds, cpu, sender_cpu = (
        time.monotonic() - start,
        time.process_time() - cpu,
        _cpu_seconds(pid) - sender_cpu,
    )
    viewers = [
        _difference(watcher, earlier, seconds)
        for watcher, earlier in zip(watchers, before, strict=True)
    ]
    rates = [viewer["fps"] for viewer in viewers]
    joins = [watcher.join_seconds for watcher in watchers]
    return {
        "seconds": round(seconds, 3),
        "cpu": round(cpu / seconds, 3),
        "sender_cpu": None if pid is None else round(sender_cpu / seconds, 3),
        "codecs": sorted({watcher.codec for watcher in watchers}),
        "fps": {"min": min(rates), "p50": statistics.median(rates)},
        "join_seconds": {"max": round(max(joins), 3), "p50": round(statistics.median(joins), 3)},
        "longest_gap": max(viewer["longest_gap"] for viewer in viewers),
        **{
            name: sum(viewer[name] for viewer in viewers)
            for name in ("keyframes", "plis", "nacks", "packets", "lost")
        },
        "viewers": viewers,
    }


def _cpu_seconds(pid: int | None) -> float:
    """Return what a process has computed since its start, in all threads."""
    if pid is None:
        return 0.0
    # The name may hold spaces, but is in parentheses.
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _difference(watcher: Watcher, before: Mapping[str, float], seconds: float) -> dict[str, float]:
    grown = {name: value - before[name] for name, value in watcher.statistics().items()}
    return {
        "fps": round(grown["frames"] / seconds, 2),
        "longest_gap": round(watcher.counter.longest_gap, 3),
        "join_seconds": round(watcher.join_seconds, 3),
        **grown,
    }


async def run(
    url: URL, *, viewers: int, seconds: float, token: str | None, codec: str | None, pid: int | None
) -> dict[str, Any]:
    """Open viewers, measure and close them."""
    async with aiohttp.ClientSession() as http:
        if url.path == "/":
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            async with http.get(
                url / "api/clips", headers=headers, raise_for_status=True
            ) as response:
                url = url / "whep" / (await response.json())[0]["name"]
        watchers = [Watcher(http, url, codec=codec, token=token) for _ in range(viewers)]
        try:
            await join_all(watchers)
            gc.collect()
            gc.freeze()  # what lives on need not be searched again and again
            return await measure(watchers, seconds, pid=pid)
        finally:
            await asyncio.gather(*(watcher.leave() for watcher in watchers), return_exceptions=True)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", type=URL)
    parser.add_argument("--viewers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--token")
    parser.add_argument("--codec", choices=["H264", "VP8"])
    parser.add_argument(
        "--pid", type=int, help="the server's process, to tell how much of a core it takes"
    )
    args = parser.parse_args()
    options = {name: value for name, value in vars(args).items() if name != "url"}
    stay_on_loopback()
    try:
        result = asyncio.run(run(args.url, **options))
    except (JoinError, aiohttp.ClientError) as error:
        sys.exit(str(error))
    json.dump(result, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
