"""How fast a stream goes, in figures."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How fast a stream goes, over the last seconds."""

    engine: str | None
    """None until the engine is loaded."""
    decode_fps: float
    """Frames per second of decoding, with nothing to wait for: what the engine could do."""
    encode_fps: float
    """Frames per second of encoding, with nothing to wait for."""
    encode_ms: float
    """Time to encode a frame."""
    sent_fps: float
    """Frames per second that were handed to RTP for the slowest viewer."""
    bitrate: float
    """Bits per second of all codecs' encoders."""
    ahead: int
    """Decoded frames that wait."""
    missed: int
    """Ticks of the clip's rate at which no new picture was ready in time, since the start."""
    dropped: int
    """Packets that present viewers were too slow for."""
    viewers: int
    damaged: int
    """Segments that could not be decoded."""
