"""Sound of a source as Opus packets, in time with its pictures."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.stream import Disposition

from encoder.codec.sound import (
    MAX_PACKETS,
    PACKET_SAMPLES,
    RATE,
    Sound,
    SoundFormat,
    SoundPart,
    is_packet,
)
from encoder.common.errors import SourceError
from encoder.media.decoding import opened
from encoder.media.metadata import language_of
from encoder.media.samples import TOLERANCE, AudioTrack, blocks, placed
from encoder.media.sound_choice import SoundChoice
from encoder.media.source import Source
from encoder.media.timeline import PacketTimes, join

STEREO_RATE = 48_000
"""Bits per second of stereo sound by default; mono has half as many."""
CODEC = "opus"
LEAD_PACKETS = 4
"""Packets before the first that is heard, after which a decoder is in tune (RFC 7845, 4.6)."""


def read_sound(source: Source, choice: SoundChoice) -> Sound | None:
    """Return the sound that plays with a source's frames; None if there is none.

    Raises SourceError.
    """
    path = source.path
    if path.is_dir():
        return None
    try:
        with opened(path) as container:
            stream = _pick(container, path, choice)
            if stream is None:
                return None
            track = AudioTrack(
                path=path,
                number=container.streams.audio.index(stream),
                times=_packet_times(container, stream),
                origin=source.track.origin,
                seconds=source.count / source.rate,
            )
            return _read(track, stream, choice)
    except FFmpegError as error:
        raise SourceError(
            f"cannot read the sound of {path}: {error.strerror} (--audio none leaves it out)"
        ) from None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None


def _read(track: AudioTrack, stream: AudioStream, choice: SoundChoice) -> Sound:
    """Return the sound of a track: copied if that is wanted and possible, or else encoded."""
    channels = min(max(stream.codec_context.channels, 1), 2)
    form = SoundFormat(channels=channels, delay=0, language=language_of(stream.metadata))
    name = stream.codec_context.name
    if name == CODEC and choice.rate is None:
        copied = _copied(track, form)
        if copied is not None:
            return copied
    if choice.copies:
        why = ", with gaps or packets of other lengths than 20 ms" if name == CODEC else ""
        raise SourceError(f"sound of {track.path} cannot be copied: it is {name}{why}")
    return _encoded(track, form, choice.rate or STEREO_RATE * channels // 2)


def _pick(container: InputContainer, path: Path, choice: SoundChoice) -> AudioStream | None:
    """Return the chosen audio track, or the default one; None if there is none."""
    tracks = container.streams.audio
    if choice.track is not None:
        if choice.track >= len(tracks):
            raise SourceError(f"no audio track {choice.track} in {path}, which has {len(tracks)}")
        return tracks[choice.track]
    usable = [track for track in tracks if track.codec_context]
    if not usable:
        if choice.copies or tracks:
            raise SourceError(f"no sound in {path} that can be read: --audio none leaves it out")
        return None
    return max(usable, key=lambda track: bool(track.disposition & Disposition.default))


def _packet_times(container: InputContainer, stream: AudioStream) -> list[int | None]:
    """Return the times of a track's packets in its unit, joined where they jump."""
    packets = [
        PacketTimes(packet.pts, packet.dts, packet.duration or 0)
        for packet in container.demux(stream)
        if packet.size
    ]
    may_jump = bool(container.format.flags & Flags.ts_discont.value)
    return join(packets, stream.time_base or Fraction(1, RATE), may_jump=may_jump)[0]


def _copied(track: AudioTrack, form: SoundFormat) -> Sound | None:
    """Return the packets of a track as they are; None if they are not in a row, 20 ms each."""
    packets: list[bytes] = []
    delay = 0
    for packet, place in track.packets():
        if place is None or not is_packet(packet):
            return None
        delay = delay if packets else -place
        if abs(place + delay - len(packets) * PACKET_SAMPLES) > TOLERANCE:
            return None
        if place >= track.samples:
            break
        packets.append(packet)
    before = max(delay // PACKET_SAMPLES - LEAD_PACKETS, 0)
    if delay < 0 or not before < len(packets) <= MAX_PACKETS:
        return None
    delay -= before * PACKET_SAMPLES
    return Sound(replace(form, delay=delay), [SoundPart(0, tuple(packets[before:]))])


def _encoded(track: AudioTrack, form: SoundFormat, rate: int) -> Sound:
    """Return the sound of a track, encoded at a rate in bits per second."""
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate = RATE
    encoder.layout = "mono" if form.channels == 1 else "stereo"
    encoder.format = "s16"
    encoder.bit_rate = rate
    encoder.time_base = Fraction(1, RATE)
    encoder.options = {"frame_duration": "20", "application": "audio", "vbr": "on"}
    encoder.open()
    delay = _delay(encoder)
    count = track.samples + delay  # silence at the end makes up for the delay
    packets: list[bytes] = []
    for number, block in enumerate(blocks(placed(track, form.channels), count, form.channels)):
        samples = block.reshape(1, -1)
        frame = AudioFrame.from_ndarray(samples, format="s16", layout=encoder.layout.name)
        frame.sample_rate = RATE
        frame.pts = number * PACKET_SAMPLES
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    packets += [bytes(packet) for packet in encoder.encode(None)]
    heard = tuple(packets[: -(-count // PACKET_SAMPLES)])
    return Sound(replace(form, delay=delay), [SoundPart(0, heard)])


def _delay(encoder: AudioCodecContext) -> int:
    """Return the samples that an encoder puts before the sound, told by its OpusHead (RFC 7845)."""
    head = bytes(encoder.extradata or b"")
    return int.from_bytes(head[10:12], "little")
