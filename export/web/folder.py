"""Write a folder that any static host serves: the page, its scripts and kernels, and clips."""

import json
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from encoder.codec import ladder
from encoder.codec.clip import Clip
from encoder.codec.container import VERSIONS
from encoder.codec.ladder import Ladder
from encoder.codec.topology import dictionary
from encoder.common.atomic_file import replacing
from encoder.common.errors import SettingsError

CLIPS = "clips.json"
"""List of the clips, which the page reads first."""
RUNTIME = "onnxruntime"
"""Folder of onnxruntime-web's files, which the page looks for if its kernels cannot run a clip."""
RUNTIME_FILES = "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
COMMENT = re.compile(rb"^[ \t]*(?:/\*\*(?:[^*]|\*(?!/))*\*/|//[^\n]*)\n", re.MULTILINE)
"""Lines of scripts that are comments alone: viewers need not download them."""


def assets() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each file of the page, without clips."""
    for entry in files("export.web").joinpath("site").iterdir():
        data = entry.read_bytes()
        yield entry.name, COMMENT.sub(b"", data) if entry.name.endswith(".js") else data
    for version in VERSIONS:
        yield f"dictionary{version}.bin", dictionary(version)


def write_site(films: Sequence[Path], folder: Path, runtime: Path | None = None) -> int:
    """Write the site with some clips, and ladders by their lists; return its bytes.

    The folder is made if it is not there. Its other files are kept. `runtime` is the unpacked npm
    package onnxruntime-web, for clips with operators that the page's kernels do not have.
    Raises BitstreamError for a file that is no intact clip, and SettingsError for two clips of the
    same name, a clip with the name of another file, a folder that is a file, or another package.
    """
    found = [_files(film) for film in films]
    # A clip may be in a ladder, and also be wanted alone.
    clips = {path.resolve(): path for paths in found for path in paths}.values()
    if len({clip.name for clip in clips}) < len(clips) or len(
        {film.resolve() for film in films}
    ) < len(films):
        raise SettingsError("two clips have the same name")
    written = dict(assets())
    for clip in clips:
        if clip.name in {CLIPS, *written}:
            raise SettingsError(f"{clip.name} is a file of the page: rename the clip")
    entries = [_entry(*paths) for paths in found]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if runtime is not None:
            (folder / RUNTIME).mkdir(exist_ok=True)
    except FileExistsError as error:
        raise SettingsError(f"{error.filename} is a file") from None
    written |= {clip.name: clip.read_bytes() for clip in clips}
    if runtime is not None:
        written |= {
            f"{RUNTIME}/{name}": _runtime_file(runtime / "dist" / name) for name in RUNTIME_FILES
        }
    # The list comes last, so that all files that it names are there.
    written[CLIPS] = json.dumps(entries, indent=1).encode() + b"\n"
    for name, data in written.items():
        with replacing(folder / name) as part:
            part.write_bytes(data)
    return sum(map(len, written.values()))


def _runtime_file(path: Path) -> bytes:
    """Return a file of onnxruntime-web; raises SettingsError."""
    try:
        return path.read_bytes()
    except OSError:
        raise SettingsError(f"no unpacked package onnxruntime-web: {path} cannot be read") from None


def _files(film: Path) -> Sequence[Path]:
    """Return a clip's file, or the list of a ladder and its clips; raises BitstreamError."""
    if film.suffix != ladder.SUFFIX:
        return [film]
    return [film, *(film.with_name(rung.file) for rung in Ladder.load(film).rungs)]


def _entry(film: Path, *rungs: Path) -> dict[str, object]:
    """Return the entry of a clip's file, or of a ladder; raises BitstreamError."""
    clips = [(path.name, Clip.read(path)) for path in rungs or [film]]
    ladder.check_alike(clips)
    largest = rungs[-1] if rungs else film
    return describe(film.stem, f"./{quote(film.name)}", clips[-1][1], largest.stat().st_size)


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
