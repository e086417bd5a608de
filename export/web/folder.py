"""Write a folder that any static host serves: the page, its scripts and kernels, and clips."""

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from encoder.codec.clip import Clip
from encoder.codec.container import VERSIONS
from encoder.codec.topology import dictionary
from encoder.common.atomic_file import replacing
from encoder.common.errors import SettingsError

CLIPS = "clips.json"
"""List of the clips, which the page reads first."""


def assets() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each file of the page, without clips."""
    for entry in files("export.web").joinpath("site").iterdir():
        yield entry.name, entry.read_bytes()
    for version in VERSIONS:
        yield f"dictionary{version}.bin", dictionary(version)


def write_site(clips: Sequence[Path], folder: Path) -> int:
    """Write the site with some clips; return its bytes.

    The folder is made if it is not there. Its other files are kept.
    Raises BitstreamError for a file that is no intact clip, and SettingsError for two clips of the
    same name, a clip with the name of another file, or a folder that is a file.
    """
    if len({clip.name for clip in clips}) < len(clips):
        raise SettingsError("two clips have the same name")
    written = dict(assets())
    for clip in clips:
        if clip.name in {CLIPS, *written}:
            raise SettingsError(f"{clip.name} is a file of the page: rename the clip")
    entries = [_entry(clip) for clip in clips]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise SettingsError(f"{folder} is a file") from None
    written |= {clip.name: clip.read_bytes() for clip in clips}
    # The list comes last, so that all files that it names are there.
    written[CLIPS] = json.dumps(entries, indent=1).encode() + b"\n"
    for name, data in written.items():
        with replacing(folder / name) as part:
            part.write_bytes(data)
    return sum(map(len, written.values()))


def _entry(path: Path) -> dict[str, object]:
    """Return the entry of a clip's file; raises BitstreamError."""
    return describe(path.stem, f"./{quote(path.name)}", Clip.read(path), path.stat().st_size)


def describe(name: str, file: str, clip: Clip, file_bytes: int) -> dict[str, object]:
    """Return a clip's entry in the list; `file` is its address relative to the page."""
    header = clip.header
    return {
        "name": name,
        "title": clip.extras.about.title,
        "file": file,
        "bytes": file_bytes,
        "width": header.width,
        "height": header.height,
        "frames": header.frames,
        "rate": float(header.rate),
    }
