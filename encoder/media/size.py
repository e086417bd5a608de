"""Sizes of frames, as text and as numbers."""

import re

from encoder.codec.container import MAX_SIDE
from encoder.common.errors import SettingsError

Size = tuple[int, int]
"""Width and height in pixels."""


def parse_size(text: str) -> Size:
    """Return the width and height of a text like 640x360; raises SettingsError."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (0 < size[0] <= MAX_SIDE and 0 < size[1] <= MAX_SIDE):
        raise SettingsError(f"a size is two numbers of 1 to {MAX_SIDE} like 640x360, got {text!r}")
    return size


def size_text(size: Size) -> str:
    """Return a size as text like 640x360."""
    return f"{size[0]}x{size[1]}"
