"""The RTP packets of a viewer's sound, and the reports that tie them to the pictures."""

import asyncio
import contextlib
import time
from struct import unpack

import pytest
from aiortc.clock import current_ntp_time
from aiortc.rtp import RtcpSrPacket, RtpPacket
from waiting import until

from encoder.codec.sound import PACKET_SAMPLES, RATE
from player.rtc.sound_sender import QUEUE_PARTS, Part, SoundSender

FRAME_SAMPLES = 1920
"""Samples of a frame at 25 per second."""


class Sender:
    """A stand-in for the video's sender."""

    ssrc = 1234
    cname = "somebody"

    def __init__(self):
        self.sent = []
        self.reports = []
        self.is_connected = True

    def path(self):
        if not self.is_connected:
            raise ConnectionError
        return lambda data: data, self, ("192.0.2.1", 9)

    async def send_data(self, data, _):
        self.sent.append(RtpPacket.parse(data))

    async def send_rtcp(self, packets):
        self.reports.append(packets)


async def send(*parts):
    """Return the sender's stand-in once some parts are sent."""
    stand_in = Sender()
    sender = SoundSender(stand_in, 111)
    task = asyncio.create_task(sender.run())
    for part in parts:
        sender.push(part)
        count = len(stand_in.sent) + len(part.packets)
        await until(lambda count=count: len(stand_in.sent) == count)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert all(packet.ssrc == sender.ssrc != stand_in.ssrc for packet in stand_in.sent)
    return stand_in


def part(count, time, lead=0):
    return Part(tuple(bytes([31 << 3, number]) for number in range(count)), time, lead)


def times(sent):
    """Return the packets' times after the first, in samples."""
    return [(packet.timestamp - sent[0].timestamp) % 2**32 for packet in sent]


async def test_packets_in_a_row_are_20_ms_apart():
    """However the times of pictures are rounded, and however many packets a picture has."""
    parts = [part(2, 0, 100), part(2, 1919, 101), part(1, 3841, 98), part(2, 5761, 0)]
    sent = (await send(*parts)).sent
    assert times(sent) == [PACKET_SAMPLES * number for number in range(7)]
    assert [packet.payload_type for packet in sent] == [111] * 7
    numbers = [packet.sequence_number for packet in sent]
    assert [(each - numbers[0]) % 2**16 for each in numbers] == list(range(7))
    assert numbers[0] < 2**15
    assert [packet.marker for packet in sent] == [1, 0, 0, 0, 0, 0, 0]


async def test_each_packet_waits_for_its_time_but_not_for_ever():
    begun = time.monotonic()
    now = round(begun * RATE)
    stand_in = Sender()
    sender = SoundSender(stand_in, 111)
    task = asyncio.create_task(sender.run())
    sender.push(part(3, now))
    await asyncio.sleep(0.01)
    assert len(stand_in.sent) == 1
    await until(lambda: len(stand_in.sent) == 3)
    assert time.monotonic() - begun >= 2 * PACKET_SAMPLES / RATE
    sender.push(part(1, now + 3600 * RATE))
    await until(lambda: len(stand_in.sent) == 4)
    task.cancel()


async def test_a_seek_cuts_a_part_short():
    stand_in = Sender()
    sender = SoundSender(stand_in, 111)
    task = asyncio.create_task(sender.run())
    now = round(time.monotonic() * RATE)
    sender.push(part(50, now))
    await until(lambda: len(stand_in.sent) == 2)
    later = round(time.monotonic() * RATE)
    sender.push(Part((b"new",), later, 0))
    await until(lambda: stand_in.sent[-1].payload == b"new")
    assert len(stand_in.sent) <= 5
    task.cancel()


async def test_silence_is_a_gap_and_sound_after_it_is_marked():
    sent = (await send(part(2, 0), part(2, 48_000, 7))).sent
    assert times(sent) == [0, 960, 48_007, 48_967]
    assert [packet.marker for packet in sent] == [1, 0, 1, 0]


async def test_reports_tell_the_time_of_the_clock_of_playouts():
    """However late the parts are: their times are a second old."""
    before = current_ntp_time()
    now = round(time.monotonic() * RATE)
    parts = [part(2, now - RATE + index * FRAME_SAMPLES, 200) for index in range(60)]
    found = await send(*parts)
    assert len(found.reports) == 3  # one a second
    report, names = found.reports[0]
    assert isinstance(report, RtcpSrPacket)
    passed = report.sender_info.rtp_timestamp - found.sent[0].timestamp
    assert 0 <= (passed % 2**32) - (RATE - 200) < RATE // 4
    assert 0 <= report.sender_info.ntp_timestamp - before < 1 << 32  # a second
    assert names.chunks[0].items == [(1, b"somebody")]
    later = found.reports[1][0].sender_info
    assert later.packet_count == 2 * 26
    assert later.octet_count == 2 * 2 * 26


async def test_what_waits_is_bounded():
    stand_in = Sender()
    sender = SoundSender(stand_in, 111)
    for number in range(1000):
        sender.push(part(1, number * FRAME_SAMPLES))
    task = asyncio.create_task(sender.run())
    await asyncio.sleep(0.01)
    task.cancel()
    assert len(stand_in.sent) == QUEUE_PARTS


async def test_sending_ends_with_the_connection():
    stand_in = Sender()
    sender = SoundSender(stand_in, 111)
    stand_in.is_connected = False
    sender.push(part(1, 0))
    await asyncio.wait_for(sender.run(), 1)
    assert stand_in.sent == []


@pytest.mark.parametrize("start", [0, 2**32 - 1])
async def test_timestamps_wrap_around(start):
    sent = (await send(part(3, start))).sent
    assert times(sent) == [0, 960, 1920]
    assert all(unpack("!I", packet.timestamp.to_bytes(4, "big")) for packet in sent)
