"""Device of a fit, its arithmetic, and frames on their way to it."""

import contextlib
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from encoder.common.errors import SettingsError
from encoder.config import DeviceName, PrecisionName


def pick_device(name: DeviceName) -> torch.device:
    """Return the device of a name; raises SettingsError for an absent GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("no CUDA device here: use --device cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def upload(x: Tensor, device: torch.device) -> Tensor:
    """Return a small tensor of the host on a device; the host does not wait for a GPU to copy it.

    The memory that is pinned for it stays so; for a segment's frames, that would cost too much.
    """
    if device.type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def unit(frames: Tensor) -> Tensor:
    """Return uint8 frames as numbers in 0..1."""
    return frames.float().mul_(1 / 255)


@contextlib.contextmanager
def convolutions(precision: PrecisionName) -> Generator[None]:
    """Let a GPU's convolutions use TF32 for a while, unless the precision is fp32.

    Products of matrices never do: they would misplace the pixels of a camera.
    """
    flags: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [each.allow_tf32 for each in flags]
    flags[0].allow_tf32, flags[1].allow_tf32 = precision != "fp32", False
    try:
        yield
    finally:
        for each, allowed in zip(flags, before, strict=True):
            each.allow_tf32 = allowed


def network_arithmetic(precision: PrecisionName, device: torch.device) -> torch.autocast:
    """Return the context of a network's forward pass: in bf16, or as its tensors are."""
    # A cache of converted weights would not survive in a recorded step.
    is_half = precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=is_half, cache_enabled=False)
