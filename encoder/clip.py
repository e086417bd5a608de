"""Clips in Python: open a file or URL, decode frames by index or time, save."""

import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import overload
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import ArrayLike, NDArray

from encoder.codec import clip as codec
from encoder.codec.container import MAX_FILE_BYTES
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.atomic_file import replacing
from encoder.common.errors import BitstreamError, SourceError, first_line
from encoder.media.size import Size

TIMEOUT_SECONDS = 30.0
"""Longest wait for data from a web server."""


@dataclass(frozen=True, eq=False)
class Clip(codec.Clip):
    """A clip: `clip[0:8]` and `clip.decode(times)` decode frames with the reference decoder."""

    data: bytes = b""
    """Bytes of the file that the clip was read from, if any."""

    def __bytes__(self) -> bytes:
        """Return the file's bytes."""
        return self.data or super().__bytes__()

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.header.frames

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second."""
        return self.header.rate

    @property
    def size(self) -> Size:
        """Width and height of a frame, in pixels."""
        return self.header.width, self.header.height

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, index: slice) -> NDArray[np.uint8]: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.uint8]:
        """Return the RGB frame (3, H, W) at an index, or the frames (N, 3, H, W) of a slice.

        Raises IndexError, and the errors of `decode`.
        """
        if isinstance(index, slice):
            return self.decode(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame must be in 0..{len(self) - 1}, got {index}")
        return self.decode([index % len(self)])[0]

    def decode(self, times: ArrayLike | Sequence[float]) -> NDArray[np.uint8]:
        """Return the RGB frames (N, 3, H, W) at times (N,), in frames; times may be fractional.

        Raises BitstreamError if weights are damaged, EngineError if the network cannot be run.
        """
        return self._decoder.at(np.asarray(times, np.float64))

    def save(self, path: str | Path) -> None:
        """Write the file, completely or not at all; raises OSError, SettingsError."""
        with replacing(Path(path)) as part:
            part.write_bytes(bytes(self))

    @cached_property
    def _decoder(self) -> ReferenceDecoder:
        return ReferenceDecoder(self)


def open_clip(source: str | Path) -> Clip:
    """Open a clip by its path or http(s) URL.

    Damaged segments are left out, and `damage` names them. Raises BitstreamError for a file that is
    not a clip, SourceError for a URL that cannot be read.
    """
    if isinstance(source, str) and urlsplit(source).scheme in ("http", "https"):
        data = _download(source)
    else:
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise BitstreamError(f"cannot read {source}: {error.strerror}") from None
    return replace(Clip.parse(data, strict=False), data=data)


def _download(url: str) -> bytes:
    """Return the bytes behind a URL; raises SourceError."""
    shown = url.partition("?")[0]
    try:
        with _opener().open(url, timeout=TIMEOUT_SECONDS) as response:
            data = response.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise SourceError(f"{shown} has over {MAX_FILE_BYTES} bytes")
            if response.length:  # bytes that are missing
                raise SourceError(f"cannot read {shown}: it ends after {len(data)} bytes")
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or first_line(error)
        raise SourceError(f"cannot read {shown}: {reason}") from None
    return data


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener of URLs that follows redirections to http and https alone."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
