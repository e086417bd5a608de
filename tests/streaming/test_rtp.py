"""Packets that are cut once for all viewers are those that aiortc makes for each."""

import asyncio
import gc
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamError
from aiortc.rate import RateCounter
from aiortc.rtcdtlstransport import State
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RTP_HISTORY_SIZE, HeaderExtensionsMap, RtpPacket
from playing import picture

from player.rtc import rtp_sender
from player.rtc.aiortc_hooks import SenderInternals
from player.rtc.fanout import ViewerTrack
from player.rtc.peer_connection import add_viewer
from player.rtc.rtp_sender import Packetizer, RtpStream
from player.rtc.video_encoder import CLOCK_RATE, CODECS, VideoEncoder

CODEC = RTCRtpCodecParameters(mimeType="video/H264", clockRate=90000, payloadType=99)
MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
ABS_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
ADDRESS = ("192.0.2.1", 5)


def encoded_frames(codec="H264", count=3):
    encoder, packetizer = VideoEncoder(codec, 64, 64, Fraction(25)), Packetizer(codec)
    return [
        packetizer.packetize(packet)
        for index in range(count)
        for packet in encoder.encode(picture(60 * index), index * 3600)
    ]


class Sender:
    """Stands in for a connected sender of aiortc's: keeps the packets, unencrypted."""

    ssrc, mid = 0x12345678, "0"

    def __init__(self, extensions_map=None):
        self.extensions_map = extensions_map or HeaderExtensionsMap()
        self.history, self.counters, self.sent = {}, {}, []
        self.is_connected, self.has_started, self.has_exited = True, False, False

    def path(self):
        if not self.is_connected:
            raise ConnectionError
        return lambda data: data, self, ADDRESS

    async def send_data(self, data, address):
        assert address == ADDRESS
        self.sent.append(data)

    def set_counters(self, **counters):
        self.counters = counters

    def mark_started(self):
        self.has_started = True

    def mark_exited(self):
        self.has_exited = True


def extensions(**ids):
    """Return a map of the negotiated header extensions."""
    found = HeaderExtensionsMap()
    uris = {"mid": MID, "abs_send_time": ABS_SEND_TIME}
    numbers = [SimpleNamespace(id=number, uri=uris[name]) for name, number in ids.items()]
    found.configure(SimpleNamespace(headerExtensions=numbers))
    return found


@pytest.mark.parametrize("ids", [{"mid": 1, "abs_send_time": 2}, {"abs_send_time": 2}, {}])
async def test_packets_are_what_aiortc_makes_of_the_same_fields(ids):
    sender = Sender(extensions(**ids))
    stream = RtpStream(sender, 99)
    for frame in encoded_frames():
        await stream.send(frame)
    parsed = [RtpPacket.parse(data, sender.extensions_map) for data in sender.sent]
    assert [packet.serialize(sender.extensions_map) for packet in parsed] == sender.sent
    assert {(packet.payload_type, packet.ssrc) for packet in parsed} == {(99, sender.ssrc)}
    assert [packet.payload for packet in parsed] == [
        payload for frame in encoded_frames() for payload in frame.payloads
    ]
    assert {packet.extensions.mid for packet in parsed} == {"0" if "mid" in ids else None}


async def test_send_time_is_that_of_the_clock():
    sender = Sender(extensions(abs_send_time=2))
    await RtpStream(sender, 99).send(encoded_frames(count=1)[0])
    packet = RtpPacket.parse(sender.sent[0], sender.extensions_map)
    # 6 bits of seconds, and 18 bits of their fraction.
    age = (time.time() - packet.extensions.abs_send_time / (1 << 18)) % 64
    assert age < 2


async def test_last_packet_of_a_frame_has_the_marker_and_all_have_its_time():
    sender = Sender(extensions(mid=1, abs_send_time=2))
    stream = RtpStream(sender, 99, sequence_number=0xFFFE, timestamp_origin=0xFFFFFF00)
    frame = encoded_frames()[0]
    frame.payloads = [b"one", b"two", b"three", b"four"]
    frame.pts = 0x1FF
    await stream.send(frame)
    parsed = [RtpPacket.parse(data) for data in sender.sent]
    assert [packet.marker for packet in parsed] == [0, 0, 0, 1]
    assert [packet.sequence_number for packet in parsed] == [0xFFFE, 0xFFFF, 0, 1]
    assert {packet.timestamp for packet in parsed} == {0xFF}


async def test_lost_packets_can_be_sent_again_and_reports_tell_what_was_sent():
    sender = Sender()
    stream = RtpStream(sender, 99)
    frames = encoded_frames()
    for frame in frames:
        await stream.send(frame)
    for data in sender.sent:
        packet = RtpPacket.parse(data)
        kept = sender.history[packet.sequence_number % RTP_HISTORY_SIZE]
        assert kept.serialize() == packet.serialize()
    ntp_timestamp = sender.counters.pop("ntp_timestamp")
    assert abs((ntp_timestamp >> 32) - 2208988800 - time.time()) < 2
    now = sender.counters.pop("rtp_timestamp")
    assert sender.counters == {
        "packet_count": len(sender.sent),
        "octet_count": sum(len(payload) for frame in frames for payload in frame.payloads),
    }
    # The last frame is late by as much as the report says.
    origin = RtpPacket.parse(sender.sent[-1]).timestamp - frames[-1].pts
    assert (round(time.monotonic() * CLOCK_RATE) + origin - now) % 2**32 < CLOCK_RATE // 4


@pytest.mark.parametrize("codec", CODECS)
async def test_payloads_are_those_of_aiortc(codec):
    from aiortc.codecs import get_encoder

    encoder = VideoEncoder(codec, 64, 64, Fraction(25))
    reference = get_encoder(
        RTCRtpCodecParameters(mimeType=f"video/{codec}", clockRate=90000, payloadType=0)
    )
    packetizer = Packetizer(codec)
    if codec == "VP8":
        reference.picture_id = packetizer._encoder.picture_id
    for index in range(4):
        for packet in encoder.encode(picture(50 * index), index * 3600):
            assert packetizer.packetize(packet).payloads == reference.pack(packet)[0]


class Track:
    """Stands in for a viewer's track: ends in several ways."""

    payload_type = None

    def __init__(self, sender, end):
        self._frames, self._sender, self._end = iter(encoded_frames()), sender, end
        self.has_stopped = False

    async def recv(self):
        if (frame := next(self._frames, None)) is not None:
            return frame
        if self._end == "track":
            raise MediaStreamError
        if self._end == "bug":
            raise ZeroDivisionError
        if self._end == "connection":
            self._sender.is_connected = False
            return encoded_frames()[0]
        return await asyncio.sleep(100)

    def stop(self):
        self.has_stopped = True


@pytest.mark.parametrize("end", ["track", "connection", "cancelled", "bug"])
async def test_loop_ends_as_aiortc_waits_for_it_to(end, caplog):
    sender = Sender()
    track = Track(sender, end)
    task = asyncio.create_task(rtp_sender.run(sender, track, CODEC))
    await asyncio.sleep(0.05)
    if end == "cancelled":
        task.cancel()
    await asyncio.wait([task], timeout=5)
    assert sender.has_started
    assert len(sender.sent) >= 3
    assert sender.has_exited
    assert track.has_stopped
    assert ("ZeroDivisionError" in caplog.text) == (end == "bug")


@pytest.mark.parametrize(("own", "sent"), [(None, 99), (35, 35)])
async def test_payload_type_is_the_viewer_s_or_else_the_connection_s(own, sent):
    sender = Sender()
    track = Track(sender, "track")
    track.payload_type = own
    await rtp_sender.run(sender, track, CODEC)
    assert {RtpPacket.parse(data).payload_type for data in sender.sent} == {sent}


@pytest.fixture
async def connection():
    """A connection of aiortc's that sends a viewer's track."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    yield connection
    await connection.close()


async def test_internals_are_those_of_aiortc(connection):
    """The names that are written are read by aiortc: in its statistics, and when it stops."""
    viewer = ViewerTrack("H264")
    sender = add_viewer(connection, viewer).sender
    internals = SenderInternals(sender)
    assert internals.is_supported
    assert internals.mid is None
    with pytest.raises(ConnectionError):
        internals.path()
    internals.set_counters(ntp_timestamp=1, rtp_timestamp=2, octet_count=3, packet_count=4)
    (stats,) = (each for each in (await sender.getStats()).values() if "outbound" in each.type)
    assert (stats.bytesSent, stats.packetsSent, stats.ssrc) == (3, 4, internals.ssrc)
    internals.mark_exited()
    assert sender.track is None
    viewer.stop()


async def test_path_is_that_of_the_selected_pair(connection):
    viewer = ViewerTrack("H264")
    sender = add_viewer(connection, viewer).sender
    pair = SimpleNamespace(protocol="socket", remote_addr=ADDRESS)
    transport = sender.transport
    transport.transport._connection._nominated[1] = pair
    transport._tx_srtp = SimpleNamespace(protect="encrypt")
    with pytest.raises(ConnectionError):
        SenderInternals(sender).path()
    transport._state = State.CONNECTED
    assert SenderInternals(sender).path() == ("encrypt", "socket", ADDRESS)
    transport._state = State.CLOSED
    viewer.stop()


def test_private_names_of_the_libraries_are_in_the_hooks_alone():
    """Ruff refuses them elsewhere, unless it is told not to, or they are composed as text."""
    hooks = {"aiortc_hooks.py", "aioice_hooks.py"}
    others = {"listener.py"}  # a private name of aiohttp
    for path in Path(rtp_sender.__file__).parents[1].rglob("*.py"):
        text = path.read_text()
        assert "_RTC" not in text or path.name in hooks, path
        assert "noqa: SLF001" not in text or path.name in hooks | others, path


async def test_viewer_keeps_no_bandwidth_estimate(connection):
    """An estimate has a thousand objects that each garbage collection would visit."""
    viewer = ViewerTrack("H264")
    receiver = add_viewer(connection, viewer).receiver
    reached, found = [receiver], {id(receiver)}
    for each in reached:
        assert not isinstance(each, RateCounter)
        near = gc.get_referents(each) if type(each).__module__.startswith("aiortc") else []
        near += list(each.values()) if isinstance(each, dict) else []
        reached += [other for other in near if id(other) not in found]
        found |= {id(other) for other in near}
    viewer.stop()
