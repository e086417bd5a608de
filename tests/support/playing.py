"""What the tests of the player share: items of small clips, streams and servers."""

import asyncio
import threading

import numpy as np
from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver

from encoder.codec.clip import Clip
from export.engines.registry import open_engine
from player.metrics import Metrics
from player.playback.channel import make_channels
from player.playback.clip_source import ClipSource
from player.server.app import make_app
from player.server.auth import Access
from player.server.limits import Limits
from player.server.sessions import Sessions

SDP = {"Content-Type": "application/sdp"}


class Pictures:
    """Stands in for an engine, which takes a while to open: any pictures, each of its time."""

    name, batch, lost_segments = "pictures", 2, 0

    def __init__(self, clip: Clip) -> None:
        height, width = clip.header.even_size
        self._noise = np.random.default_rng(0).integers(16, 235, (height * 3 // 2, width), np.uint8)

    def frames(self, times):
        return np.stack([np.roll(self._noise, round(10 * time)) for time in times])

    def close(self):
        pass


def make_item(
    clip: Clip, name: str = "tiny", *, batch: int = 2, engine: str | None = None
) -> ClipSource:
    """Return a clip to play, with an engine by name or a stand-in."""
    if engine is None:
        return ClipSource(name, clip, lambda _: Pictures(clip), file_bytes=1234)
    return ClipSource(
        name,
        clip,
        lambda failed: open_engine(clip, engine, batch=batch, failed=failed),
        file_bytes=1234,
    )


def make_server(
    items, *, limits=None, access=None, ice=None, stamp=False, bitrate=None, host="127.0.0.1"
) -> web.Application:
    metrics = Metrics()
    sessions = Sessions(limits or Limits(per_address=100), ice)
    return make_app(
        make_channels(items, metrics, stamp=stamp, bitrate=bitrate),
        sessions,
        metrics,
        host=host,
        access=access or Access(),
    )


async def offer_for(codec=None):
    """Return a peer that wants to receive, and its offer, of one codec or of all."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    transceiver = peer.addTransceiver("video", direction="recvonly")
    if codec is not None:
        known = RTCRtpReceiver.getCapabilities("video").codecs
        transceiver.setCodecPreferences([c for c in known if c.mimeType == f"video/{codec}"])
    await peer.setLocalDescription(await peer.createOffer())
    return peer, peer.localDescription.sdp


async def receive(viewer, count):
    return [await asyncio.wait_for(viewer.recv(), 20) for _ in range(count)]


def player_threads():
    return [
        thread.name for thread in threading.enumerate() if thread.name in ("encoder", "decoder")
    ]


def picture(value=128):
    return np.full((96, 64), value, np.uint8)


def planes_of(frame):
    """Return the three planes of a decoded frame."""
    return [
        np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width]
        for plane in frame.planes
    ]
