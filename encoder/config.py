"""Settings of a fit: defaults, flags, help texts, and the record in the file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from encoder.codec.coder import HUFFMAN_BOUND, CoderName
from encoder.common.errors import SettingsError
from encoder.common.flags import Flag, flag_name
from encoder.common.quantities import parse_quantity
from encoder.media.reading import Reading
from encoder.media.size import Size, parse_size
from encoder.media.sound_choice import SoundChoice, parse_choice

if TYPE_CHECKING:
    from encoder.media.video import Frames

SizeName = Literal["XS", "S", "M", "L"]
SIZES: tuple[SizeName, ...] = get_args(SizeName)
DEFAULT_SIZE: SizeName = "S"
DeviceName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["auto", "fp32", "bf16"]
BITS = range(2, 13)
"""Numbers of bits for weights that are quantized after the fit."""
MIN_PSNR, MAX_PSNR = 10, 55
MAX_SEED = 2**63 - 1
BITS_PER_BYTE = 8
MAX_BITS_PER_PIXEL = 1000
SEGMENT_SECONDS = 120.0
"""Default time budget for the frames of a segment."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """End of a fit: after a time, or after a number of epochs."""

    seconds: float | None = None
    """Wall-clock seconds."""
    epochs: int | None = None
    """Passes over the frames; with a seed, the result is reproducible."""

    def __post_init__(self) -> None:
        """Raise SettingsError unless exactly one limit is given, and is positive."""
        if (self.seconds is None) == (self.epochs is None):
            raise SettingsError("give either a budget or a number of epochs")
        if self.seconds is not None and not (isfinite(self.seconds) and self.seconds > 0):
            raise SettingsError(f"the budget must be over 0 seconds, got {self.seconds:g}")
        if self.epochs is not None and self.epochs < 1:
            raise SettingsError(f"the number of epochs must be at least 1, got {self.epochs}")

    def __str__(self) -> str:
        """Return the limit for people to read."""
        return f"{self.seconds:g} s" if self.seconds is not None else f"{self.epochs} epochs"


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Size of a file and the methods to reach it."""

    lambda_: float | None = None
    """Weight of a bit per pixel against the distortion; None takes the preset's."""
    file_bytes: int | None = None
    """Wanted size of the file; None lets lambda decide."""
    psnr: float | None = None
    """Wanted PSNR of the frames, in dB; None lets lambda decide."""
    bits: int | None = None
    """Bits of a weight, quantized after the fit (PTQ); None quantizes during the fit (QAT)."""
    prune: float = 0.0
    """Share of the layers' weights that become zero at the schedule's `prune_at`."""
    coder: CoderName = "range"
    """Entropy coder."""

    def __post_init__(self) -> None:
        """Raise SettingsError for values out of range, or values that do not go together."""
        if self.lambda_ is not None and not 0 < self.lambda_ < float("inf"):
            raise SettingsError(f"lambda must be over 0, got {self.lambda_:g}")
        if self.file_bytes is not None and self.file_bytes < 1:
            raise SettingsError(f"the file's size must be over 0, got {self.file_bytes}")
        if self.psnr is not None and not MIN_PSNR <= self.psnr <= MAX_PSNR:
            raise SettingsError(f"the PSNR must be in {MIN_PSNR}..{MAX_PSNR} dB, got {self.psnr:g}")
        if self.bits is not None and self.bits not in BITS:
            raise SettingsError(f"bits must be in {BITS[0]}..{BITS[-1]}, got {self.bits}")
        if not 0 <= self.prune < 1:
            raise SettingsError(f"the share to prune must be in 0..1, got {self.prune:g}")
        if self.bits is not None and {self.lambda_, self.file_bytes, self.psnr} != {None}:
            raise SettingsError("give either bits or a rate, not both")
        if self.coder == "huffman" and (
            self.bits is None or 2 ** (self.bits - 1) - 1 > HUFFMAN_BOUND
        ):
            raise SettingsError("the huffman coder takes at most 8 bits: give bits as well")
        if self.prune and self.bits is None:
            raise SettingsError(
                "pruning needs bits: a fit with a rate term sets useless weights to zero by itself"
            )


@dataclass(frozen=True, kw_only=True)
class FitConfig(Reading):
    """All settings that decide on the bytes of a clip."""

    preset: Annotated[str, Flag(metavar="NAME")] = "fast"
    """Network and recipe, see `models`."""
    size: SizeName = DEFAULT_SIZE
    """Size of the network."""
    resize: Annotated[
        str | Size | None,
        Flag(metavar="WxH", default="the shape it is shown in, at most as many pixels as 320x180"),
    ] = None
    """Frame size, or 'source' for the video's own."""
    mask: Annotated[str | Path | None, Flag(metavar="PATH")] = None
    """Picture, or a folder or video with one per frame; white pixels are not fitted."""
    audio: Annotated[
        str | int | None,
        Flag(metavar="RATE", default="copied if it is Opus, else 48k for stereo and 24k for mono"),
    ] = None
    """Sound: its bits per second such as 64k, `copy`, or `none`."""
    audio_track: Annotated[int | None, Flag(metavar="N", default="the default one")] = None
    """Audio track, from 0, as FFmpeg's a:N."""
    subtitles: Annotated[str, Flag(metavar="TRACKS")] = "all"
    """Subtitles to keep: `all`, `none`, or languages as the source names them: `eng,fra`."""
    metadata: bool = True
    """Keep title, language, date and chapters."""
    budget: Annotated[float | None, Flag(metavar="SECONDS", exclusive="limit")] = None
    """Wall-clock time to fit all segments, with any number of workers."""
    epochs: Annotated[int | None, Flag(exclusive="limit")] = None
    """Passes over the frames, instead of a budget."""
    segment_frames: Annotated[int, Flag(metavar="N")] = 150
    """Largest number of frames that share a network."""
    key_interval: Annotated[int, Flag(metavar="N")] = 8
    """Largest number of segments from one key segment to the next."""
    seed: int = 0
    """Seed of everything random."""
    precision: PrecisionName = "auto"
    """Arithmetic of the network in the fit; auto is fp32, with TF32 in a GPU's convolutions."""
    lambda_: Annotated[
        float | None,
        Flag(metavar="LAMBDA", default="the preset's", group="size", exclusive="target"),
    ] = None
    """Weight of a bit per pixel against the distortion; short fits raise it."""
    bits_per_pixel: Annotated[float | None, Flag(metavar="X", group="size", exclusive="target")] = (
        None
    )
    """Size of the file, in bits per pixel."""
    file_size: Annotated[
        str | int | None, Flag(metavar="BYTES", group="size", exclusive="target")
    ] = None
    """Size of the file, such as 200kB."""
    bitrate: Annotated[str | int | None, Flag(metavar="BITS", group="size", exclusive="target")] = (
        None
    )
    """Size of the file, in bits per second of video, such as 500k."""
    psnr: Annotated[float | None, Flag(metavar="DB", group="size", exclusive="target")] = None
    """PSNR of the frames in dB; an easy one ends the fit before its budget does."""
    bits: Annotated[int | None, Flag(metavar="N", group="size", exclusive="target")] = None
    """Quantize weights to N bits after the fit, instead of fitting for a rate."""
    prune: Annotated[float, Flag(metavar="SHARE", group="size")] = 0.0
    """Share of the layers' weights to set to zero."""
    coder: Annotated[CoderName, Flag(group="size")] = "range"
    """Entropy coder."""

    def __post_init__(self) -> None:
        """Raise SettingsError for values out of range, or values that do not go together."""
        if self.budget is not None or self.epochs is not None:
            Budget(seconds=self.budget, epochs=self.epochs)
        if not 0 <= self.seed <= MAX_SEED:
            raise SettingsError(f"seed must be in 0..{MAX_SEED}, got {self.seed}")
        if self.segment_frames < 1:
            raise SettingsError(f"a segment needs at least 1 frame, got {self.segment_frames}")
        if self.key_interval < 1:
            raise SettingsError(f"a key interval is at least 1 segment, got {self.key_interval}")
        targets = (self.lambda_, self.bits_per_pixel, self.file_size, self.bitrate, self.psnr)
        if sum(each is not None for each in (*targets, self.bits)) > 1:
            raise SettingsError(
                "give one of lambda, bits per pixel, file size, bitrate, PSNR and bits, not several"
            )
        if self.psnr is not None and self.mask is not None:
            raise SettingsError("a fit with a mask cannot be steered to a PSNR: give a lambda")
        self._unsized()
        if self.bits_per_pixel is not None and not 0 < self.bits_per_pixel <= MAX_BITS_PER_PIXEL:
            raise SettingsError(
                f"bits per pixel must be over 0 and at most {MAX_BITS_PER_PIXEL}, "
                f"got {self.bits_per_pixel:g}"
            )
        if self.file_size is not None:
            _number(self.file_size, "B", "a file size is a number of bytes like 200kB")
        if self.bitrate is not None:
            _number(self.bitrate, "", "a bitrate is a number of bits per second like 500k")
        _ = self.frame_size, self.sound

    @property
    def reading(self) -> Reading:
        """Settings for reading the source."""
        return Reading(track=self.track, matrix=self.matrix, background=self.background)

    @property
    def sound(self) -> SoundChoice | None:
        """The choice that `audio` and `audio_track` make; None for no sound."""
        return parse_choice(self.audio, self.audio_track)

    @property
    def frame_size(self) -> Size | None:
        """Width and height of a frame, if given."""
        if self.resize is None or self.resize == "source":
            return None
        return parse_size(self.resize) if isinstance(self.resize, str) else self.resize

    def limit(self, frames: int) -> Budget:
        """Return the budget for a number of frames: the given one, or the default."""
        if self.budget is None and self.epochs is None:
            return Budget(seconds=SEGMENT_SECONDS * max(frames / self.segment_frames, 1.0))
        return Budget(seconds=self.budget, epochs=self.epochs)

    def _unsized(self) -> Compression:
        return Compression(
            lambda_=self.lambda_,
            psnr=self.psnr,
            bits=self.bits,
            prune=self.prune,
            coder=self.coder,
        )

    def compression(self, video: "Frames") -> Compression:
        """Return the compression of a video; raises SettingsError."""
        size = self.target_bytes(video)
        if size is None:
            return self._unsized()
        return Compression(file_bytes=size, prune=self.prune, coder=self.coder)

    def target_bytes(self, video: "Frames") -> int | None:
        """Return the wanted size of a video's file, in bytes, if there is one."""
        width, height = video.size
        if self.bits_per_pixel is not None:
            return round(self.bits_per_pixel * video.count * width * height / BITS_PER_BYTE)
        if self.file_size is not None:
            return round(_number(self.file_size, "B", ""))
        if self.bitrate is not None:
            bits = _number(self.bitrate, "", "")
            return round(bits * video.count / video.rate / BITS_PER_BYTE)
        return None

    def text(self, video: "Frames", *, after: str = "", network: str = "") -> str:
        """Return the record in the file: the options that reproduce its bytes.

        `after` replaces the budget and follows the target size, for a file made from a checkpoint.
        `network` replaces the preset and its size. A note on assumed colours comes last.
        """
        width, height = video.size
        preset = {"preset": self.preset, "size": self.size}
        record: dict[str, object] = {"resize": f"{width}x{height}"}
        optional = (
            "track",
            "matrix",
            "background",
            "mask",
            "audio",
            "audio_track",
            "subtitles",
            "metadata",
            "precision",
        )
        limit = self.limit(video.count)
        target = ("lambda_", "bits_per_pixel", "file_size", "bitrate", "psnr", "bits")
        record |= self._changed(optional)
        if not after:
            seconds = limit.seconds
            record |= {"epochs": limit.epochs} if seconds is None else {"budget": f"{seconds:g}"}
        record |= self._changed((*target, "prune", "coder"))
        last = {
            "segment_frames": self.segment_frames,
            "key_interval": self.key_interval,
            "seed": self.seed,
        }
        network = network or _flags(preset)
        return f"{network} {_flags(record)}{after} {_flags(last)}{video.assumption}"

    def _changed(self, names: tuple[str, ...]) -> dict[str, object]:
        """Return the fields among `names` that differ from their defaults."""
        defaults = {each.name: each.default for each in fields(self)}
        changed = {name: getattr(self, name) for name in names}
        return {
            name: Path(value).name if name == "mask" else value
            for name, value in changed.items()
            if value != defaults[name]
        }


def _flags(record: Mapping[str, object]) -> str:
    return " ".join(
        f"--no-{name}" if value is False else f"{flag_name(name)} {value}"
        for name, value in record.items()
    )


def _number(text: str | int, suffix: str, rule: str) -> float:
    value = parse_quantity(text, suffix)
    if not value:
        raise SettingsError(f"{rule}, got {text!r}")
    return value
