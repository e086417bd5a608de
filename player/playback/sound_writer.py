"""A clip's sound as a track of a video file, without another encode."""

from fractions import Fraction

import av
from av.container import OutputContainer

from encoder.codec.sound import PACKET_SAMPLES, RATE, Sound
from player.playback.excerpt import Excerpt

UNIT = Fraction(1, RATE)


class SoundWriter:
    """Writer of the packets of an excerpt, as the pictures that they play with are written."""

    def __init__(self, container: OutputContainer, excerpt: Excerpt, sound: Sound) -> None:
        """Add the track to a file."""
        form = sound.format
        layout = "mono" if form.channels == 1 else "stereo"
        self._stream = container.add_stream("libopus", RATE, layout=layout)
        self._stream.codec_context.options = {"frame_duration": "20"}
        if form.language:
            self._stream.metadata["language"] = form.language
        self._container = container
        self._excerpt = excerpt
        self._sound = sound
        self._next: int | None = None

    def write(self, seconds: Fraction) -> None:
        """Write the packets that begin before a time, in seconds since the excerpt's start."""
        sound = self._sound
        shift = round(self._excerpt.start * RATE) + sound.format.delay
        if self._next is None:
            # Opening the encoder makes the header of the track. Packets before
            # the samples that it tells players to skip are left out: files hold no earlier times.
            self._container.start_encoding()
            head = bytes(self._stream.codec_context.extradata or b"")
            skipped = int.from_bytes(head[10:12], "little")
            self._next = max(-(-(shift - skipped) // PACKET_SAMPLES), 0)
        end = min(seconds, self._excerpt.seconds)
        stop = min(sound.format.number_at(self._excerpt.start + end), sound.stop)
        for number in range(self._next, stop):
            if (data := sound.packet(number)) is not None:
                packet = av.Packet(data)
                packet.stream = self._stream
                packet.time_base = UNIT
                packet.pts = packet.dts = number * PACKET_SAMPLES - shift
                packet.duration = PACKET_SAMPLES
                packet.is_keyframe = True
                self._container.mux_one(packet)
        self._next = max(self._next, stop)
