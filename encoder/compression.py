"""What a user may say about the size of a file."""

from dataclasses import dataclass

from encoder.codec.errors import SettingsError
from encoder.codec.segment import HUFFMAN_BOUND, CoderName

BITS = range(2, 13)
"""Bits that a weight may have which was not fitted for a rate."""


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How small, and by which means."""

    rate_weight: float | None = None
    """Weight of a bit per pixel against the distortion; None takes the preset's."""
    file_bytes: int | None = None
    """Size that the file shall have; None lets the weight decide."""
    bits: int | None = None
    """Bits of a weight, quantised after the fit; None fits for a rate, if the preset has one."""
    prune: float = 0.0
    """Share of the layers' weights that are set to zero, the smallest, before the last part of the fit."""
    coder: CoderName = "range"

    def __post_init__(self) -> None:
        """Raise SettingsError for what is out of range, or does not go together."""
        if self.rate_weight is not None and not 0 < self.rate_weight < float("inf"):
            raise SettingsError(f"the rate must be over 0, got {self.rate_weight:g}")
        if self.file_bytes is not None and self.file_bytes < 1:
            raise SettingsError(f"the file's size must be over 0, got {self.file_bytes}")
        if self.bits is not None and self.bits not in BITS:
            raise SettingsError(f"bits must be in {BITS[0]}..{BITS[-1]}, got {self.bits}")
        if not 0 <= self.prune < 1:
            raise SettingsError(f"the share to prune must be in 0..1, got {self.prune:g}")
        if self.bits is not None and (self.rate_weight is not None or self.file_bytes is not None):
            raise SettingsError("give either bits or a rate, not both")
        if self.coder == "huffman" and (self.bits is None or 2 ** (self.bits - 1) - 1 > HUFFMAN_BOUND):
            raise SettingsError("the huffman coder takes at most 8 bits: give --bits as well")
        if self.prune and self.bits is None:
            raise SettingsError("pruning needs --bits: fitted for a rate, weights that are of no use become zero by themselves")
