"""Distortions between frames (B, 3, H, W) in 0..1."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_msssim import ms_ssim, ssim
from torch import Tensor
from torch.autograd.function import once_differentiable

from encoder.kernels.compiled import are_for
from encoder.kernels.training import square_error

WINDOWS = (11, 9, 7, 5, 3)
"""Sizes of MS-SSIM's window; small frames need a smaller one than its authors' 11."""
SIGMA = 1.5
"""Standard deviation of SSIM's window, in pixels (its authors')."""
CHANNELS = 3
SCALES = 16
"""Factor from MS-SSIM's finest scale to its coarsest: it halves a frame four times."""
SLOPE = 8
"""Factor of the squared error, which matches the slope of the other losses."""
HIDDEN = 0.5
"""Colour of masked pixels of both output and target, so that no loss sees them."""


def compared(output: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return output and target of the target's size, with the pixels of a mask (B, H, W) hidden."""
    output = output[..., : target.shape[2], : target.shape[3]].float()
    if mask is None:
        return output, target
    hidden = mask[:, None]
    return output.masked_fill(hidden, HIDDEN), target.masked_fill(hidden, HIDDEN)


def squared(output: Tensor, target: Tensor) -> Tensor:
    """Return SLOPE times the MSE, which is the error that PSNR measures."""
    return SLOPE * mean_square(output, target)


def mean_square(output: Tensor, target: Tensor) -> Tensor:
    """Return the MSE, with a gradient for the output alone.

    On CPUs, both are three times as fast as those of `F.mse_loss`.
    """
    return _MeanSquare.apply(output, target)


def error_of(
    loss: Callable[[Tensor, Tensor], Tensor], value: Tensor, output: Tensor, target: Tensor
) -> Tensor:
    """Return the MSE of an output, from the `value` of its loss where that is the squared error."""
    return value.detach() / SLOPE if loss is squared else mean_square(output.detach(), target)


def l1_ssim(output: Tensor, target: Tensor) -> Tensor:
    """Return 0.7 L1 + 0.3 (1 - SSIM) (NeRV, section 3.2)."""
    window = _gaussian(WINDOWS[0], output.device)
    structure = 1 - ssim(output, target, data_range=1.0, win=window)
    return 0.7 * F.l1_loss(output, target) + 0.3 * structure


def l1_ms_ssim_frequencies(output: Tensor, target: Tensor) -> Tensor:
    """Return 60 (0.7 L1 + 0.3 (1 - MS-SSIM)) + L1 of the Fourier coefficients.

    From Boosting-NeRV, section 3.4. For frames too small for MS-SSIM, L1 replaces it.
    """
    difference = F.l1_loss(output, target)
    size = ms_ssim_window(*output.shape[2:])
    structure = (
        difference
        if size is None
        else 1 - ms_ssim(output, target, data_range=1.0, win=_gaussian(size, output.device))
    )
    spectrum = torch.view_as_real(torch.fft.fft2(output - target)).abs().mean()
    return 60 * (0.7 * difference + 0.3 * structure) + spectrum


def ms_ssim_window(height: int, width: int) -> int | None:
    """Return the size of MS-SSIM's window for a frame; None if the frame is too small for it."""
    return next((size for size in WINDOWS if (size - 1) * SCALES < min(height, width)), None)


@cache
def _gaussian(size: int, device: torch.device) -> Tensor:
    """Return SSIM's window for each channel (3, 1, 1, size).

    It stays on the device: making it in each step would wait for the device each time.
    """
    places = torch.arange(size, dtype=torch.float32) - size // 2
    window = (-places.square() / (2 * SIGMA**2)).exp()
    return (window / window.sum()).expand(CHANNELS, 1, 1, size).contiguous().to(device)


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor) -> Tensor:
        if are_for(output, target):
            difference, total = square_error(output, target)
            ctx.save_for_backward(difference)
            return output.new_tensor(total) / difference.numel()
        difference = output - target
        ctx.save_for_backward(difference)
        values = difference.flatten()
        return values.dot(values) / values.numel()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (of the decorator)
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (gradients[0] * (2 / difference.numel())), None
