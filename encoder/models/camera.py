"""A camera on a canvas: the places of a frame's pixels, under global motion and a coarse field."""

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.models.base import as_given
from encoder.models.layers import TemporalGrid


class Camera(nn.Module):
    """Camera that cuts each frame from a canvas.

    The displacements of a frame's corners define its place and shape on the canvas.
    They are given and coded with the weights, not learned.
    """

    origin: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        frames: int | None,
        size: tuple[int, int],
        canvas: tuple[int, int],
        sampling: str = "bilinear",
    ) -> None:
        """Take the number of frames, or None for a camera that stands still."""
        super().__init__()
        self.size = size
        self.sampling = sampling
        self.displacements = None
        if frames is not None:
            self.displacements = TemporalGrid(frames=frames, period=1, shape=(2, 2, 2))
            self.displacements.requires_grad_(requires_grad=False)
            self.displacements.values.zero_()
        (top, bottom), (left, right) = [
            ((whole - part) / 2, (whole + part) / 2 - 1)
            for whole, part in zip(canvas, size, strict=True)
        ]
        corners = torch.tensor(
            [[[left, right], [left, right]], [[top, top], [bottom, bottom]]]
        )  # x and y, on the canvas
        scale = torch.tensor([2 / (side - 1) for side in reversed(canvas)])[:, None, None]
        self.register_buffer("origin", corners * scale - 1, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    @property
    def motion(self) -> nn.Parameter | None:
        """The displacements of all frames' corners (T, 2, 2, 2), if the camera moves."""
        return None if self.displacements is None else self.displacements.values

    def aim(self, displacements: Tensor) -> None:
        """Set the displacements of the frames' corners (T, 2, 2, 2), in pixels.

        They have the order of `encoder.segmentation.global_motion.estimate_motion`.
        The camera must be one that moves.
        """
        values = self.motion
        assert values is not None
        values[: len(displacements)] = as_given(displacements)
        values[len(displacements) :] = values[len(displacements) - 1]

    def forward(
        self, canvas: Tensor, t: Tensor, field: Tensor | None = None, *, reduction: int = 1
    ) -> Tensor:
        """Map canvases (B, C, H', W') at times in frames (B,) to frames (B, C, H, W).

        `field` is that of `nodes`.
        `reduction` divides the sides of the canvases and of the frames, corners upon corners.
        """
        height, width = (ceil(side / reduction) for side in self.size)
        places = spread(self.nodes(t, field), (height, width))  # (B, 2, H, W)
        return F.grid_sample(
            canvas,
            places.permute(0, 2, 3, 1),
            mode=self.sampling,
            padding_mode="border",
            align_corners=True,
        )

    def nodes(self, t: Tensor, field: Tensor | None = None) -> Tensor:
        """Map times in frames (B,) to places x and y (B, 2, rows, columns) on the canvas, -1..1.

        The frame's pixels lie between them; the outermost nodes are the frame's corners.
        `field` (B, 2, rows, columns) displaces the nodes further, in pixels.
        """
        nodes = self.origin[None]  # (1, 2, 2, 2)
        if self.displacements is not None:
            nodes = self.origin + self.scale * self.displacements(t)  # (B, 2, 2, 2)
        if field is not None:
            rows, columns = field.shape[2:]
            nodes = resized(nodes, (rows, columns)) + self.scale * field
        elif self.displacements is None:
            # Times make a batch of the places, and keep the exporter from folding them to a table.
            nodes = nodes + 0 * t[:, None, None, None]
        return nodes


def spread(nodes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return what `resized` returns, by two products of matrices.

    In the gradient of an interpolation, a GPU adds all pixels near a node one after the other.
    """
    if torch.compiler.is_exporting() or nodes.is_meta:  # decoders interpolate
        return resized(nodes, size)
    rows, columns = (
        _between(*sides, nodes.device) for sides in zip(nodes.shape[2:], size, strict=True)
    )
    with torch.autocast(nodes.device.type, enabled=False):
        return rows @ nodes @ columns.mT


def _between(nodes: int, places: int, device: torch.device) -> Tensor:
    """Return the weights (places, nodes) of linear interpolation, ends upon ends."""
    positions = torch.linspace(0, nodes - 1, places, device=device)[:, None]
    return (1 - (positions - torch.arange(nodes, device=device)).abs()).clamp(min=0)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, C, h, w) resized bilinearly to (B, C, *size), corners upon corners."""
    # A factor, not a size: a size would export operators that read shapes.
    # A clip must not have those.
    factors = tuple(_factor(*sides) for sides in zip(x.shape[2:], size, strict=True))
    return F.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=True)


def _factor(before: int, after: int) -> float:
    """Return a factor that makes a side from another, whatever its rounding to float32."""
    # Multiples of 1/2 are exact. For others, a part of a pixel more keeps rounding from losing one.
    return after / before if 2 * after % before == 0 else (after + 0.25) / before
