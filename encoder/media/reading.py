"""Choices that a source leaves to its reader."""

import contextlib
import shutil
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from encoder.common.errors import SettingsError, SourceError
from encoder.common.flags import Flag

Matrix = Literal["bt601", "bt709", "bt2020"]
Background = Literal["black", "white"]
STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class Reading:
    """Settings for reading a source; the defaults follow players."""

    track: Annotated[int | None, Flag(metavar="N", default="the default one, or the largest")] = (
        None
    )
    """Video track, from 0, as FFmpeg's v:N."""
    matrix: Annotated[
        Matrix | None, Flag(default="the file's, or else BT.709 for HD, BT.601 for less")
    ] = None
    """Matrix between RGB and YUV, which overrides the file."""
    background: Background = "black"
    """Colour behind transparent pictures."""

    @property
    def flags(self) -> str:
        """Options on the command line for all settings that differ from the defaults."""
        given = {"track": self.track, "matrix": self.matrix, "background": self.background}
        return "".join(
            f" --{name} {value}"
            for name, value in given.items()
            if value != getattr(DEFAULT_READING, name)
        )


DEFAULT_READING = Reading()


@contextlib.contextmanager
def source_file(path: Path, *, copy: Path | None = None) -> Generator[Path]:
    """Yield the path of a source that can be read several times.

    A pipe or standard input (`-`) is copied to a file: to `copy`, or to a temporary folder. The
    copy is deleted at the end. Raises SettingsError if standard input is closed or a terminal,
    SourceError for an empty pipe, and OSError.
    """
    if path != STANDARD_INPUT and not path.is_fifo():
        yield path
        return
    if path == STANDARD_INPUT and sys.stdin is None:
        raise SettingsError("standard input is closed")
    if path == STANDARD_INPUT and sys.stdin.isatty():
        raise SettingsError(
            "standard input is a terminal: "
            "pipe a video into it, like ffmpeg -i FILM -f yuv4mpegpipe -"
        )
    with contextlib.ExitStack() as stack:
        if copy is None:
            copy = Path(stack.enter_context(TemporaryDirectory())) / "source"
        stack.callback(copy.unlink, missing_ok=True)
        with (
            copy.open("wb") as file,
            contextlib.nullcontext(sys.stdin.buffer)
            if path == STANDARD_INPUT
            else path.open("rb") as pipe,
        ):
            shutil.copyfileobj(pipe, file, 1 << 20)
        if not copy.stat().st_size:
            raise SourceError(
                f"nothing came through {'standard input' if path == STANDARD_INPUT else path}"
            )
        yield copy
