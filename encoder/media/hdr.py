"""Tone mapping of high dynamic range and wide gamuts to BT.709 SDR (ITU-R BT.2390, BT.2408).

All light is that of a display, in cd/m2. SDR white is the reference white of BT.2408, 203 cd/m2. A
picture without brighter light therefore maps to the SDR picture from which it was made.
"""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray

Light = NDArray[np.floating]
"""Linear red, green and blue (H, W, 3), in cd/m2."""
Code = NDArray[np.floating]
"""Coded red, green and blue (H, W, 3), in 0..1."""

WHITE = 203.0
"""Light of the reference white in cd/m2 (BT.2408, table 1)."""
PQ_PEAK = 10_000.0
"""Light of the PQ code 1 in cd/m2."""
HLG_PEAK = 1000.0
"""Light of the HLG code 1 in cd/m2, on the reference display of BT.2100."""
SDR_GAMMA = 2.4
"""Gamma of the display for which SDR pictures are made (BT.1886), whatever the camera's curve."""
TABLE = 1 << 14
"""Number of entries in the lookup tables of curves."""
PEAK_QUANTILE = 0.9999
"""Share of pixels that are no brighter than the peak of a picture. Single brighter pixels are
noise."""

# Constants of PQ (BT.2100, table 4).
PQ_M1 = 2610 / 16384
PQ_M2 = 2523 / 4096 * 128
PQ_C1 = 3424 / 4096
PQ_C2 = 2413 / 4096 * 32
PQ_C3 = 2392 / 4096 * 32
# Constants of HLG (BT.2100, table 5).
HLG_A = 0.17883277
HLG_B = 0.28466892
HLG_C = 0.55991073
HLG_KNEE = 0.5
HLG_GAMMA = 1.2
"""System gamma of the reference display for HLG."""
BT2020_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)

D65 = (0.3127, 0.3290)
PRIMARIES: Mapping[
    int, tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
] = {
    ColorPrimaries.BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), D65),
    ColorPrimaries.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    ColorPrimaries.SMPTE431: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
}
"""Chromaticities x and y of red, green, blue and white (ITU-T H.273, table 2), for BT.709 and wider
gamuts. BT.601 is missing: it differs so little from BT.709 that players and this module treat them
as equal."""
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
"""Matrix from XYZ to cone responses, which adapts colours from one white to another."""


def pq_to_light(code: Code) -> Light:
    """Return the light of PQ codes (BT.2100, table 4: EOTF)."""
    root = np.power(np.maximum(code, 0), np.float32(1 / PQ_M2))
    return PQ_PEAK * np.power(
        np.maximum(root - PQ_C1, 0) / (PQ_C2 - PQ_C3 * root), np.float32(1 / PQ_M1)
    )


def light_to_pq(light: Light) -> Code:
    """Return the PQ codes of light."""
    power = np.power(np.maximum(light, 0) / PQ_PEAK, np.float32(PQ_M1))
    return np.power((PQ_C1 + PQ_C2 * power) / (1 + PQ_C3 * power), np.float32(PQ_M2))


def hlg_to_scene(code: Code) -> Light:
    """Return the scene light, in 0..1, of HLG codes (BT.2100, table 5: inverse OETF)."""
    low = np.square(code) / 3
    high = (np.exp((code - HLG_C) / HLG_A) + HLG_B) / 12
    return np.where(code <= HLG_KNEE, low, high)


def scene_to_light(scene: Light) -> Light:
    """Map scene light (H, W, 3) to light of the reference display (BT.2100, table 5: OOTF)."""
    luminance = np.maximum(scene @ BT2020_LUMINANCE, np.float32(1e-9))[..., None]
    return HLG_PEAK * scene * np.power(luminance, np.float32(HLG_GAMMA - 1))


@cache
def gamma_to_light(gamma: float) -> Callable[[Code], Light]:
    """Return the function that maps codes to light of an SDR display with a given gamma."""
    return lambda code: WHITE * np.power(np.maximum(code, 0), np.float32(gamma))


TO_LIGHT: Mapping[int, Callable[[Code], Light]] = {
    ColorTrc.SMPTE2084: pq_to_light,
    ColorTrc.LINEAR: gamma_to_light(1.0),
    ColorTrc.GAMMA22: gamma_to_light(2.2),
    ColorTrc.GAMMA28: gamma_to_light(2.8),
}
"""Curves of transfer characteristics other than those of SDR video. HLG is missing, because its
light depends on all three components."""
HIGH_RANGE = frozenset({ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67})
"""Transfer characteristics whose light may be brighter than white."""


def is_sdr(transfer: int, primaries: int) -> bool:
    """Tell whether pictures need no mapping: they are SDR with BT.709's primaries, or nearly so."""
    return transfer not in (*HIGH_RANGE, ColorTrc.LINEAR) and primaries not in PRIMARIES.keys() - {
        ColorPrimaries.BT709
    }


def to_light(code: NDArray[np.uint16], transfer: int) -> Light:
    """Map pixels (H, W, 3), coded in 16 bits, to light in cd/m2."""
    if transfer == ColorTrc.ARIB_STD_B67:
        return scene_to_light(_table(hlg_to_scene)[code])
    return _table(TO_LIGHT.get(transfer, gamma_to_light(SDR_GAMMA)))[code]


@cache
def _table(curve: Callable[[Code], Light]) -> Light:
    """Return the values of a curve for all 16-bit codes."""
    return curve(np.linspace(0, 1, 1 << 16, dtype=np.float32)).astype(np.float32)


def peak(light: Light) -> float:
    """Return the light of the brightest component of a picture, without outliers."""
    return float(np.quantile(light.max(-1), PEAK_QUANTILE))


def to_sdr(light: Light, primaries: int, peak_light: float) -> NDArray[np.uint8]:
    """Map light (H, W, 3) to 8-bit SDR pixels with BT.709's primaries.

    Light above white is rolled off according to the brightest of the three components, which keeps
    the hue. Colours outside BT.709's gamut are clipped.
    """
    if peak_light > WHITE:
        # A table over roots of light has small steps where light is dim.
        places = np.linspace(0, np.sqrt(peak_light), TABLE, dtype=np.float32)
        shares = roll_off(np.square(places), peak_light) / np.maximum(
            np.square(places), np.float32(1e-6)
        )
        shares[0] = 1
        brightest = np.sqrt(np.maximum(light.max(-1, keepdims=True), 0))
        light = light * np.interp(brightest, places, shares).astype(np.float32)
    matrix = (_to_xyz(ColorPrimaries.BT709, inverse=True) @ _to_xyz(primaries)).astype(np.float32)
    linear = np.clip(light @ (matrix.T / np.float32(WHITE)), 0, 1)
    levels = np.rint(255 * np.power(np.linspace(0, 1, TABLE), 2 / SDR_GAMMA)).astype(np.uint8)
    return levels[np.rint(np.sqrt(linear) * (TABLE - 1)).astype(np.uint16)]


def roll_off(light: Light, peak_light: float) -> Light:
    """Map light of 0..`peak_light` to 0..WHITE, the range of a display with that white.

    This is the EETF of BT.2390, 5.4.1, without its lift of black.
    """
    source = light_to_pq(np.array(peak_light, np.float32))
    code = np.minimum(light_to_pq(light) / source, 1)
    brightest = light_to_pq(np.array(WHITE, np.float32)) / source
    knee = 1.5 * brightest - 0.5
    t = (code - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (3 * t**2 - 2 * t**3) * brightest
    )
    return pq_to_light(np.where(code < knee, code, spline) * source)


def _to_xyz(primaries: int, *, inverse: bool = False) -> NDArray[np.floating]:
    """Return the matrix from linear RGB to XYZ adapted to D65 (SMPTE RP 177; Bradford)."""
    places = PRIMARIES.get(primaries, PRIMARIES[ColorPrimaries.BT709])
    *corners, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in places)
    columns = np.array(corners).T
    matrix = columns * np.linalg.solve(columns, white)
    x, y = D65
    adapted = (BRADFORD @ [x / y, 1, (1 - x - y) / y]) / (BRADFORD @ white)
    matrix = np.linalg.inv(BRADFORD) @ np.diag(adapted) @ BRADFORD @ matrix
    return np.linalg.inv(matrix) if inverse else matrix
