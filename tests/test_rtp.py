"""Packets that are cut once for all viewers are those that aiortc makes for each."""

import asyncio
import time
from fractions import Fraction
from types import SimpleNamespace

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcdtlstransport import State
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RTP_HISTORY_SIZE, HeaderExtensionsMap, RtpPacket
from playing import picture

from player.rtc import rtp_sender
from player.rtc.aiortc_hooks import add_viewer
from player.rtc.fanout import ViewerTrack
from player.rtc.rtp_sender import Packetizer
from player.rtc.video_encoder import CODECS, VideoEncoder

CODEC = RTCRtpCodecParameters(mimeType="video/H264", clockRate=90000, payloadType=99)


def coded(codec="H264", count=3):
    encoder, cutter = VideoEncoder(codec, 64, 64, Fraction(25)), Packetizer(codec)
    return [
        cutter.cut(packet)
        for index in range(count)
        for packet in encoder.encode(picture(60 * index), index * 3600)
    ]


class Wire:
    """Stands in for a connection: keeps what is sent instead of encrypting it."""

    def __init__(self):
        self.sent, self._state = [], State.CONNECTED
        pair = SimpleNamespace(protocol=self, remote_addr=("192.0.2.1", 5))
        self.transport = SimpleNamespace(_connection=SimpleNamespace(_nominated={1: pair}))
        self._tx_srtp = SimpleNamespace(protect=lambda data: data)

    async def send_data(self, data, address):
        assert address == ("192.0.2.1", 5)
        self.sent.append(data)


@pytest.fixture
async def sender():
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    viewer = ViewerTrack("H264")
    sender = add_viewer(connection, viewer).sender
    sender.setTransport(Wire())
    sender._RTCRtpSender__mid = "0"
    yield sender
    viewer.stop()
    await connection.close()


def extensions(*, mid=1, sent=2):
    """Return the map of header extensions as they are agreed on."""
    ids = HeaderExtensionsMap()
    uris = {
        mid: "urn:ietf:params:rtp-hdrext:sdes:mid",
        sent: "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    }
    ids.configure(
        SimpleNamespace(
            headerExtensions=[SimpleNamespace(id=key, uri=uri) for key, uri in uris.items() if key]
        )
    )
    return ids


@pytest.mark.parametrize("ids", [extensions(), extensions(mid=0), extensions(mid=0, sent=0)])
async def test_packets_are_what_aiortc_makes_of_the_same_fields(sender, ids):
    sender._RTCRtpSender__rtp_header_extensions_map = ids
    loop = rtp_sender._Loop(sender, CODEC)
    for frame in coded():
        await loop.send(frame)
    parsed = [RtpPacket.parse(data, ids) for data in sender.transport.sent]
    assert [packet.serialize(ids) for packet in parsed] == sender.transport.sent
    assert {(packet.payload_type, packet.ssrc) for packet in parsed} == {(99, sender._ssrc)}
    assert [packet.payload for packet in parsed] == [
        payload for frame in coded() for payload in frame.payloads
    ]
    assert {packet.extensions.mid for packet in parsed} == {
        "0" if ids._HeaderExtensionsMap__ids.mid else None
    }


async def test_last_packet_of_a_frame_has_the_marker_and_all_have_its_time(sender):
    sender._RTCRtpSender__rtp_header_extensions_map = extensions()
    loop = rtp_sender._Loop(sender, CODEC)
    loop._sequence, loop._origin = 0xFFFE, 0xFFFFFF00
    frame = coded()[0]
    frame.payloads = [b"one", b"two", b"three", b"four"]
    frame.pts = 0x1FF
    await loop.send(frame)
    parsed = [RtpPacket.parse(data) for data in sender.transport.sent]
    assert [packet.marker for packet in parsed] == [0, 0, 0, 1]
    assert [packet.sequence_number for packet in parsed] == [0xFFFE, 0xFFFF, 0, 1]
    assert {packet.timestamp for packet in parsed} == {0xFF}


async def test_lost_packets_can_be_sent_again_and_reports_tell_what_was_sent(sender):
    loop = rtp_sender._Loop(sender, CODEC)
    frames = coded()
    for frame in frames:
        await loop.send(frame)
    history = sender._RTCRtpSender__rtp_history
    for data in sender.transport.sent:
        packet = RtpPacket.parse(data)
        kept = history[packet.sequence_number % RTP_HISTORY_SIZE]
        assert (kept.sequence_number, kept.payload, kept.marker) == (
            packet.sequence_number,
            packet.payload,
            packet.marker,
        )
    assert sender._RTCRtpSender__packet_count == len(sender.transport.sent)
    assert sender._RTCRtpSender__octet_count == sum(
        len(payload) for frame in frames for payload in frame.payloads
    )
    assert (
        sender._RTCRtpSender__rtp_timestamp == RtpPacket.parse(sender.transport.sent[-1]).timestamp
    )
    assert abs((sender._RTCRtpSender__ntp_timestamp >> 32) - 2208988800 - time.time()) < 2


@pytest.mark.parametrize("codec", CODECS)
async def test_payloads_are_those_of_aiortc(codec):
    from aiortc.codecs import get_encoder

    encoder = VideoEncoder(codec, 64, 64, Fraction(25))
    reference = get_encoder(
        RTCRtpCodecParameters(mimeType=f"video/{codec}", clockRate=90000, payloadType=0)
    )
    cutter = Packetizer(codec)
    if codec == "VP8":
        reference.picture_id = cutter._encoder.picture_id
    for index in range(4):
        for packet in encoder.encode(picture(50 * index), index * 3600):
            assert cutter.cut(packet).payloads == reference.pack(packet)[0]


@pytest.mark.parametrize("end", ["track", "connection", "cancelled", "bug"])
async def test_loop_ends_as_aiortc_waits_for_it_to(sender, end, caplog):
    started, exited = sender._RTCRtpSender__rtp_started, sender._RTCRtpSender__rtp_exited
    frames = iter(coded())

    async def recv():
        if (frame := next(frames, None)) is not None:
            return frame
        if end == "track":
            raise MediaStreamError
        if end == "bug":
            raise ZeroDivisionError
        if end == "connection":
            sender.transport._state = State.CLOSED
            return coded()[0]
        return await asyncio.sleep(100)

    sender.track.recv = recv
    task = asyncio.create_task(rtp_sender.run(sender, CODEC))
    await asyncio.sleep(0.05)
    if end == "cancelled":
        task.cancel()
    await asyncio.wait_for(exited.wait(), 5)
    await asyncio.gather(task, return_exceptions=True)
    assert started.is_set()
    assert len(sender.transport.sent) >= 3
    assert sender.track is None
    assert ("ZeroDivisionError" in caplog.text) == (end == "bug")
