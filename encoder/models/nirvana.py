"""NIRVANA (CVPR 2023, arXiv 2212.14593): a small network for a few frames, made of patches.

Each network starts from the one before.
A network of sines computes a patch from its place.
An encoding of the time tells the frames apart; it is added before a grouped convolution.
As in the paper's code, all frames of a group are computed at once, then the requested one is taken.
"""

from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.base import VideoNetwork, VideoShape
from encoder.models.layers import steps
from encoder.models.sizing import narrowed, share

PATCH = 32
"""Height and width of a patch, in pixels."""
GROUP = 3
"""Number of frames of a segment."""
CHANNELS = 16
"""Channels of each frame's feature map before the convolutions."""
GRID = 16
"""Height and width of each frame's feature map before the convolutions."""
FREQUENCY = 30.0
"""Factor of the sines' arguments (SIREN)."""


@dataclass(frozen=True, kw_only=True)
class NirvanaConfig(VideoShape):
    """Configuration of a segment's network."""

    hidden: int = 512
    """Number of hidden units, which alone sets the network's size."""

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of rows and columns of patches."""
        return ceil(self.height / PATCH), ceil(self.width / PATCH)


class Nirvana(VideoNetwork):
    """Network that maps times to frames."""

    def __init__(self, config: NirvanaConfig) -> None:
        super().__init__()
        group = config.frames
        self.grid = config.grid
        self.group = group
        self.size = (config.height, config.width)
        hidden = narrowed(config.hidden, share(config.height, config.width))
        self.sine1 = nn.Linear(2, hidden)
        self.sine2 = nn.Linear(hidden, hidden)
        self.features = nn.Linear(hidden, CHANNELS * GRID**2)
        self.enlarge = nn.Conv2d(CHANNELS * group, 2 * CHANNELS * group, 3, padding=1, groups=group)
        self.head = nn.Conv2d(CHANNELS // 2 * group, 3 * group, 3, padding=1, groups=group)
        _initialise(self)

    def forward(self, t: Tensor) -> Tensor:
        """Map times in frames (B,) to frames (B, 3, H, W), padded to whole patches.

        Times are rounded to whole numbers.
        """
        x = torch.sin(FREQUENCY * self.sine1(self._places()))
        x = torch.sin(FREQUENCY * self.sine2(x))
        x = self.features(x).unflatten(1, (1, CHANNELS, GRID, GRID))  # (P, 1, C, g, g)
        x = (x + self._times()[:, :, None, None]).flatten(1, 2)  # (P, G * C, g, g)
        x = self.head(F.gelu(F.pixel_shuffle(self.enlarge(x), 2)))  # (P, 3 * G, 32, 32)
        rows, columns = self.grid
        x = x.unflatten(1, (self.group, 3)).unflatten(
            0, (rows, columns)
        )  # (rows, columns, G, 3, 32, 32)
        frames = x.permute(2, 3, 0, 4, 1, 5).flatten(4).flatten(2, 3)  # (G, 3, H, W)
        return frames.index_select(0, (t + 0.5).floor().clamp(0, self.group - 1).long())

    def _places(self) -> Tensor:
        """Return the centre (y, x) of each patch, (P, 2); a frame extends from -1 to 1."""
        middles = [
            (steps(count, self.sine1.bias) * PATCH + (PATCH - 1) / 2) / max(side - 1, 1) * 2 - 1
            for count, side in zip(self.grid, self.size, strict=True)
        ]
        rows, columns = self.grid
        down = middles[0][:, None].expand(rows, columns)
        across = middles[1].expand(rows, columns)
        return torch.stack([down, across], dim=-1).flatten(0, 1)

    def _times(self) -> Tensor:
        """Return the encoding of the time that is added to the features of each frame, (G, C)."""
        frequencies = 100.0 ** -steps(CHANNELS // 2, self.sine1.bias)
        # A matrix product, because ONNX's shape inference rejects a product of two vectors.
        phases = steps(self.group, self.sine1.bias)[:, None] @ frequencies[None]  # (G, C / 2)
        return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(1)


def _initialise(network: Nirvana) -> None:
    """Initialize the sines as SIREN does (Sitzmann et al., 2020, section 3.2).

    Their biases are initialized as in NIRVANA's code.
    """
    for values in network.sine1.parameters():
        nn.init.uniform_(values, -1 / 2, 1 / 2)
    bound = (6 / network.sine2.in_features) ** 0.5 / FREQUENCY
    for layer in (network.sine2, network.features):
        nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.uniform_(layer.bias, -bound, bound)
