"""Distortions between frames (B, 3, H, W) in 0..1."""

import torch.nn.functional as F
from pytorch_msssim import ssim
from torch import Tensor


def squared(output: Tensor, target: Tensor) -> Tensor:
    """Return 8 MSE: what PSNR is made of. The factor brings its slope near that of the other losses."""
    return 8 * F.mse_loss(output, target)


def l1_ssim(output: Tensor, target: Tensor) -> Tensor:
    """Return 0.7 L1 + 0.3 (1 - SSIM) (NeRV, section 3.2)."""
    return 0.7 * F.l1_loss(output, target) + 0.3 * (1 - ssim(output, target, data_range=1.0))
