"""Interface between the encoder and a network.

A network's parameters are coded, in their order. They are of three kinds.
*Latents* hold features of single frames or places, such as a grid (T, C, h, w).
*Given* parameters are computed from the video before the fit, not learned.
*Weights* are all others.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor, nn

GIVEN_STEP = 1 / 16
"""Quantization step of given parameters."""


@dataclass(frozen=True, kw_only=True)
class VideoShape:
    """Shape of the segments that a network is built for; the base of networks' configurations."""

    height: int
    """Height of a frame, in pixels."""
    width: int
    """Width of a frame, in pixels."""
    frames: int
    """Number of frames of the longest segment."""
    margin: tuple[int, int] | None = None
    """Total range of the camera down and to the right, in pixels; None if it stands still."""
    high_motion: bool = False
    """Whether even coarse pictures change within few frames."""

    @classmethod
    def of(cls, shape: "VideoShape", **options: Any) -> Self:
        """Return a configuration for a shape."""
        return cls(**asdict(shape), **options)


class VideoNetwork(nn.Module):
    """Network of one segment.

    `forward` maps times (B,) in frames since the segment's start to frames (B, 3, H, W) in 0..1.
    H and W may be larger than the frame's; the surplus rows and columns are cut off.
    A subclass overrides those of the methods below whose default does not fit.
    """

    latent_pace = 1.0
    """Factor of the learning rate of the latents: more than 1 for those that are in few batches."""

    def latent_parameters(self) -> list[nn.Parameter]:
        """Return the latents, (T, C, h, w) or (T, C), which are coded and tuned apart."""
        return []

    def given_parameters(self) -> list[nn.Parameter]:
        """Return the given parameters: those whose `requires_grad` is False at the start."""
        return [x for x in self.parameters() if not x.requires_grad]

    def displacements(self) -> nn.Parameter | None:
        """Return the given parameter with the camera's motion (T, 2, 2, 2), if there is one."""
        return None

    def prepare(self, read: Callable[[], Tensor], motion: Tensor | None) -> None:
        """Fill the given parameters before the fit.

        `read` returns the segment's uint8 frames (T, 3, H, W). `motion` holds the displacements of
        their corners (T, 2, 2, 2), in pixels, for presets with a camera that moves.
        """
        del read, motion

    def frame_encoder(self) -> nn.Module | None:
        """Return a new encoder of frames, or None if the latents are learned by themselves.

        It maps frames (B, 3, H, W) in 0..1 to rows (B, C, h, w) of the first latent.
        """
        return None

    def names_of(self, parameters: list[nn.Parameter]) -> frozenset[str]:
        """Return the names of some of the parameters."""
        wanted = set(map(id, parameters))
        return frozenset(name for name, x in self.named_parameters() if id(x) in wanted)


class PlainNetwork(VideoNetwork):
    """Any torch module from times (B,) to frames (B, 3, H, W); all parameters are weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W) in 0..1."""
        return self.network(t)


def as_given(values: Tensor) -> Tensor:
    """Return values rounded to the quantization step of given parameters."""
    return (values / GIVEN_STEP).round() * GIVEN_STEP
