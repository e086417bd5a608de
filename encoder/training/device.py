"""Device of a fit."""

import torch

from encoder.common.errors import SettingsError
from encoder.config import DeviceName


def pick_device(name: DeviceName) -> torch.device:
    """Return the device of a name; raises SettingsError for an absent GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("no CUDA device here: use --device cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
