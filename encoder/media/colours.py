"""Interpretation of the colours of decoded pictures, and their conversion to 8-bit RGB."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

from encoder.common.errors import SourceError
from encoder.media import hdr
from encoder.media.reading import Background, Matrix
from encoder.media.size import Size

RESAMPLING = Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
HD_WIDTH = 1280
"""Width from which a picture without a declared matrix counts as HD."""
HD_HEIGHT = 720
"""Height from which a picture without a declared matrix counts as HD."""

MATRICES: Mapping[Matrix, int] = {"bt601": 5, "bt709": 1, "bt2020": 9}
"""Codes of the matrices between RGB and YUV that a user may name."""
RGB = 0
UNSPECIFIED = 2
KNOWN: Mapping[int, str] = {
    RGB: "RGB",
    1: "BT.709",
    4: "FCC",
    5: "BT.601",
    6: "BT.601",
    7: "SMPTE 240M",
    9: "BT.2020",
    10: "BT.2020",
}
"""Readable matrices by their codes (ITU-T H.273, table 4). BT.2020 with constant luminance is read
as BT.2020 without it."""
TRANSFERS: Mapping[int, str] = {
    ColorTrc.SMPTE2084: "PQ",
    ColorTrc.ARIB_STD_B67: "HLG",
    ColorTrc.LINEAR: "linear",
}
GAMUTS: Mapping[int, str] = {
    ColorPrimaries.BT2020: "BT.2020",
    ColorPrimaries.SMPTE431: "DCI-P3",
    ColorPrimaries.SMPTE432: "Display P3",
}

BACKGROUNDS: Mapping[Background, int] = {"black": 0, "white": 255}
"""Value of the background behind pictures that are transparent or smaller than their frame."""


@dataclass(frozen=True)
class Colours:
    """Coding of a picture's colours."""

    matrix: int
    """Code of the matrix between RGB and YUV."""
    is_assumed: bool
    """Whether a part of the coding is assumed, because the file does not declare it."""
    transfer: int
    primaries: int
    transparent: bool
    """Whether there is an alpha channel."""

    @property
    def is_sdr(self) -> bool:
        """Whether the picture is SDR with BT.709's primaries, or nearly so."""
        return hdr.is_sdr(self.transfer, self.primaries)

    def __str__(self) -> str:
        """Return a readable description in one line."""
        text = KNOWN.get(self.matrix, f"matrix {self.matrix}") + (
            " (assumed: the file does not say)" if self.is_assumed else ""
        )
        if self.transfer in TRANSFERS or self.primaries in GAMUTS:
            names = [TRANSFERS.get(self.transfer, "SDR"), GAMUTS.get(self.primaries, "")]
            text += f", {' '.join(filter(None, names))} mapped to BT.709 SDR (BT.2390)"
        return text


def colours(frame: VideoFrame, matrix: Matrix | None = None, *, is_still: bool = False) -> Colours:
    """Return how a frame's colours are coded.

    YUV without a matrix is BT.2020 if it is PQ or HLG. Otherwise it is BT.709 for HD pictures and
    BT.601 for smaller ones, as players assume. Images without a matrix are BT.601, as JPEG defines
    it. A `matrix` overrides the file. Raises SourceError if the matrix cannot be read.
    """
    code = int(frame.colorspace)
    primaries = int(frame.color_primaries)
    assumed = False
    is_high = frame.color_trc in hdr.HIGH_RANGE
    if is_high and primaries == ColorPrimaries.UNSPECIFIED:
        primaries = int(ColorPrimaries.BT2020)
        assumed = matrix != "bt2020"  # who names this matrix names its primaries as well
    if frame.format.is_rgb or frame.format.has_palette or _is_grey(frame):
        code = RGB
    elif matrix is not None:
        code = MATRICES[matrix]
    elif code in (RGB, UNSPECIFIED):
        is_hd = not is_still and (frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT)
        code = MATRICES["bt2020" if is_high else "bt709" if is_hd else "bt601"]
        assumed = True
    elif code not in KNOWN:
        raise SourceError(
            f"colours of the matrix {code} (ITU-T H.273) cannot be read: "
            "name another one with --matrix"
        )
    transparent = frame.format.has_palette or any(
        component.is_alpha for component in frame.format.components
    )
    return Colours(code, assumed, int(frame.color_trc), primaries, transparent)


def _is_grey(frame: VideoFrame) -> bool:
    return all(component.is_luma or component.is_alpha for component in frame.format.components)


class Converter:
    """Converter of decoded frames to 8-bit RGB pixels."""

    def __init__(
        self,
        peak_light: Callable[[], float],
        *,
        matrix: Matrix | None = None,
        background: Background = "black",
        are_stills: bool = False,
    ) -> None:
        """Set how frames are converted.

        `peak_light` measures the brightest light of the source, in cd/m2. It is called once, for
        the first frame of high dynamic range. Without `matrix`, the frames name their own.
        `background` stands behind transparent frames.
        """
        self._peak_light = cache(peak_light)
        self._matrix: Matrix | None = matrix
        self._are_stills = are_stills
        self._background = BACKGROUNDS[background]
        self._scaler = VideoReformatter()
        self._opaque = VideoReformatter()

    def colours(self, frame: VideoFrame) -> Colours:
        """Return how a frame's colours are coded; raises SourceError."""
        return colours(frame, self._matrix, is_still=self._are_stills)

    def light(self, frame: VideoFrame, size: Size) -> float:
        """Return the light of a frame's brightest pixels, in cd/m2.

        For a frame without high dynamic range, this is the light of white.
        """
        found = self.colours(frame)
        if found.transfer not in hdr.HIGH_RANGE:
            return hdr.WHITE
        return hdr.peak(hdr.to_light(self._scaled(frame, found, size, deep=True), found.transfer))

    def convert(self, frame: VideoFrame, size: Size) -> NDArray[np.uint8]:
        """Return the pixels (H, W, 3) of a progressive frame, scaled to `size` but not turned.

        Raises SourceError if the colours cannot be read.
        """
        found = self.colours(frame)
        if found.transparent:
            frame = self._composed(frame, found)
            found = colours(frame)
        if found.is_sdr:
            return self._scaled(frame, found, size, deep=False)
        code = self._scaled(frame, found, size, deep=True)
        peak = self._peak_light() if found.transfer in hdr.HIGH_RANGE else hdr.WHITE
        return hdr.to_sdr(hdr.to_light(code, found.transfer), found.primaries, peak)

    def _scaled(self, frame: VideoFrame, found: Colours, size: Size, *, deep: bool) -> NDArray[Any]:
        """Return the RGB codes (H, W, 3) of a scaled frame, with 8 bits or, if `deep`, with 16."""
        return _reformat(self._scaler, frame, found, size, "rgb48le" if deep else "rgb24")

    def _composed(self, frame: VideoFrame, found: Colours) -> VideoFrame:
        """Return a frame blended with the background, at its own size.

        Scaling first would spread the colours of transparent pixels.
        """
        deep = not found.is_sdr or max(component.bits for component in frame.format.components) > 8  # noqa: PLR2004
        pixels = _reformat(
            self._opaque, frame, found, (frame.width, frame.height), "rgba64le" if deep else "rgba"
        )
        top = 65535 if deep else 255
        share = pixels[..., 3:].astype(np.float32) / top
        mixed = pixels[..., :3] * share + self._background / 255 * top * (1 - share)
        composed = VideoFrame.from_ndarray(
            np.rint(mixed).astype(pixels.dtype), format="rgb48le" if deep else "rgb24"
        )
        composed.color_trc = found.transfer
        composed.color_primaries = found.primaries
        return composed


def _reformat(
    scaler: VideoReformatter, frame: VideoFrame, found: Colours, size: Size, pixel_format: str
) -> NDArray[Any]:
    width, height = size
    matrix = (
        None
        if found.matrix == RGB
        else MATRICES["bt2020"]
        if KNOWN[found.matrix] == "BT.2020"
        else found.matrix
    )
    made = scaler.reformat(
        frame,
        width=width,
        height=height,
        format=pixel_format,
        src_colorspace=5 if matrix == 6 else matrix,  # noqa: PLR2004 (both are BT.601; FFmpeg's scaler has one code for them)
        interpolation=RESAMPLING,
    )
    return made.to_ndarray()
