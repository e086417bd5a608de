"""Stand-ins for clips, engines, decoders and screens, which tell their pictures by brightness."""

import asyncio
import threading
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
from aiortc.codecs import depayload
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from virtual_time import VirtualTime

from encoder.codec.clip import Clip
from encoder.codec.container import Header
from encoder.common.errors import EngineError
from player.metrics import Metrics
from player.playback.clip_source import ClipSource
from player.playback.decode_thread import DecodeThread
from player.playback.playout import Playout
from player.rtc.fanout import ViewerTrack

SIDE = 32
"""Width and height of the pictures."""
DARKEST = 20
STEP = 30
"""Luma from one frame to the next."""
TICK_SECONDS = 0.04
EPSILON_SECONDS = 1e-6
DECODERS = {"H264": "h264", "VP8": "vp8"}


def make_clip(frames=6, *, rate=Fraction(25), damage=(), continuous=True):
    """Return a clip without weights, in one segment; append others to let it grow."""
    header = Header(
        width=SIDE, height=SIDE, frames=frames, rate=rate, continuous=continuous, settings=""
    )
    return Clip(header, None, [SimpleNamespace(start=0, frames=frames)], damage)


class Shades:
    """An engine whose pictures are as bright as their time is late; `chroma` tells the clip."""

    name, batch, lost_segments = "shades", 2, 0

    def __init__(self, chroma=128):
        self.chroma, self.error = chroma, None

    def frames(self, times):
        if self.error is not None:
            raise self.error
        pictures = np.full((len(times), SIDE * 3 // 2, SIDE), self.chroma, np.uint8)
        pictures[:, :SIDE] = (DARKEST + STEP * times.round(1))[:, None, None].round()
        return pictures

    def close(self):
        pass


class Noise(Shades):
    """An engine of pictures that cost many bits."""

    def frames(self, times):
        random = np.random.default_rng(int(times[0]))
        return random.integers(16, 235, (len(times), SIDE * 3 // 2, SIDE), np.uint8)


def make_source(clip=None, name="tiny", engine=None):
    """Return a clip to play; `opened` counts how often its engine is opened."""
    engine = engine or Shades()

    def open_engine(failed):
        source.opened += 1
        if engine.name in failed:
            raise engine.error
        return engine

    source = ClipSource(name, clip or make_clip(), open_engine, file_bytes=1234)
    source.opened = 0
    return source


def make_broken(name="broken"):
    """Return a clip that cannot be played."""

    def fail(_):
        raise EngineError("no engine today")

    return ClipSource(name, make_clip(), fail, file_bytes=1)


class PatientDecoder(DecodeThread):
    """A decoder that is never late: no virtual time passes while it decodes."""

    def read(self, *_):
        return super().read(20.0)


class LateDecoder(PatientDecoder):
    """A decoder that is late each third time."""

    reads = 0

    def read(self, *_):
        self.reads += 1
        return super().read() if self.reads % 3 else None


class Screen:
    """Shows what a viewer receives."""

    def __init__(self, codec="H264"):
        self.viewer = ViewerTrack(codec, limit=1000)
        self._codec = RTCRtpCodecParameters(mimeType=f"video/{codec}", clockRate=90000)
        self._decoder = av.CodecContext.create(DECODERS[codec], "r")
        self._decoder.thread_count = 1

    async def packets(self):
        """Return the encoded frames that have come since the last call."""
        return [await self.viewer.recv() for _ in range(self.viewer.waiting)]

    async def pictures(self):
        """Return the pictures that have come since the last call: I420 samples."""
        pictures = []
        for packet in await self.packets():
            data = b"".join(depayload(self._codec, payload) for payload in packet.payloads)
            pictures += [frame.to_ndarray() for frame in self._decoder.decode(av.Packet(data))]
        return pictures

    async def times(self):
        """Return the times of these pictures, in frames."""
        return [time for time, _ in await self.shades()]

    async def shades(self):
        """Return the times of these pictures and their chroma."""
        return [
            (round(float(luma - DARKEST) / STEP, 1), round(float(chroma)))
            for luma, chroma in [
                (picture[:SIDE].mean(), picture[SIDE:].mean()) for picture in await self.pictures()
            ]
        ]


class Studio:
    """Playouts in virtual time, and their viewers."""

    def __init__(self):
        self.time = VirtualTime()
        self.metrics = Metrics()
        self._playouts = []

    def make(self, *sources, decode=PatientDecoder, **options):
        """Return a playout with a decoder that is in time."""
        options = {"clock": self.time.clock} | options
        counts = self.metrics.of("tiny")
        playout = Playout(sources or (make_source(),), counts, decode=decode, **options)
        self._playouts.append(playout)
        return playout

    async def watch(self, playout, codec="H264"):
        """Let a viewer join; the first picture is sent."""
        screen = Screen(codec)
        playout.join(screen.viewer)
        await self.advance(0)
        return screen

    async def advance(self, ticks):
        """Let so many ticks pass, of 25 per second, and hand the packets to the viewers."""
        self.time.advance(ticks * TICK_SECONDS + EPSILON_SECONDS)
        await asyncio.sleep(0)

    async def settle(self):
        """Let the threads work at the present time, and hand the packets to the viewers."""
        self.time.settle()
        await asyncio.sleep(0)

    async def times(self, screen, ticks):
        """Return the times of the pictures that are shown in so many ticks, and before."""
        await self.advance(ticks)
        return await screen.times()

    async def close(self):
        """Close all playouts, which leaves no thread."""
        for playout in self._playouts:
            await asyncio.to_thread(playout.close)
        assert player_threads() == []


def player_threads():
    """Return the names of the player's threads."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name in ("encoder", "decoder")]
