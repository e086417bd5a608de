"""What an interrupted run leaves beside its clip, so that another one goes on from there."""

import contextlib
import fcntl
import io
import json
import logging
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from encoder.codec.segment import Segment
from encoder.common.atomic_file import replacing
from encoder.common.errors import BitstreamError, RunError
from encoder.jobs.gop import Finished, GopState

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
GROUP = "group-{}.pt"
BEFORE = "before.nerv"
LOCK = "lock"
REPLACED = "replaced"
"""What a run locks, and what tells that the clip in place is its own."""
UNREADABLE = (
    OSError,
    EOFError,
    UnpicklingError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    BitstreamError,
)
"""What reading a damaged file may raise."""


class RunState:
    """A folder that holds how far each group of segments has come."""

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        """Take the settings on which the bytes depend."""
        self._output = output.resolve()  # workers elsewhere have other current folders
        self._settings = settings
        self.folder = self._output.with_name(f".{output.name}.unfinished")

    @property
    def exists(self) -> bool:
        """Whether an earlier run left something to go on with."""
        return any(self.folder.glob(GROUP.format("*")))

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Keep other runs away from the folder, which is made if it is not there, and deleted if nothing is left in it.

        Raises RunError if there is another run, OSError.
        """
        self.folder.mkdir(exist_ok=True)
        with (self.folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"another run is writing {self._output}") from None
            try:
                yield
            finally:
                if not self.exists and not self.before.exists():
                    self.remove()

    def begin(self) -> None:
        """Make the folder, if it is not there, and write down the settings; raises OSError."""
        self.folder.mkdir(exist_ok=True)
        with replacing(self.folder / SETTINGS) as part:
            part.write_text(json.dumps(self._settings))

    def check(self) -> None:
        """Raise RunError if the earlier run had other settings."""
        try:
            before = json.loads((self.folder / SETTINGS).read_text())
            changed = [key for key in self._settings if before[key] != self._settings[key]]
        except (OSError, ValueError, TypeError, LookupError):
            raise RunError(f"{self.folder / SETTINGS} cannot be read: {self.advice}") from None
        if changed:
            key = changed[0]
            what = (
                f"the {key} of the interrupted run is {before[key]!r}, not {self._settings[key]!r}"
            )
            raise RunError(f"{what}: {self.advice}")

    @property
    def advice(self) -> str:
        """What to do if one does not want to go on."""
        kept = (
            f", after taking {self.before.name} out of it, the clip that was there before"
            if self.before.exists()
            else ""
        )
        return f"to start anew, delete {self.folder}{kept}"

    def load(self, group: int, tensors: int) -> GopState | None:
        """Return how far a group of segments of a number of tensors has come; None if nothing was saved.

        Raises RunError for a file that cannot be read.
        """
        path = self._path(group)
        if not path.exists():
            return None
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            segments = [Segment.parse(data.numpy().tobytes(), tensors) for data in kept["segments"]]
            finished = tuple(Finished(*each) for each in zip(segments, kept["states"], strict=True))
            return GopState(finished=finished, frame_encoder=kept["frame_encoder"], fit=kept["fit"])
        except UNREADABLE:
            raise RunError(f"{path} cannot be read: delete it to fit its segments anew") from None

    def save(self, group: int, state: GopState) -> None:
        """Keep how far a group has come; a disk that is full is told, and does not matter now."""
        segments = [
            torch.from_numpy(np.frombuffer(bytes(each.segment), np.uint8).copy())
            for each in state.finished
        ]
        states = [each.state for each in state.finished]
        kept = {
            "segments": segments,
            "states": states,
            "frame_encoder": state.frame_encoder,
            "fit": state.fit,
        }
        buffer = io.BytesIO()  # of files torch tells no error that can be understood
        torch.save(kept, buffer)
        try:
            with replacing(self._path(group)) as part:
                part.write_bytes(buffer.getbuffer())
        except (OSError, RunError) as error:
            logger.warning("how far the fit is cannot be saved: %s", error)

    def keep(self) -> None:
        """Keep the clip that is about to be replaced, if there is one, unless it is one that this run has begun."""
        if (self.folder / REPLACED).exists():
            return
        if self._output.exists() and not self.before.exists():
            try:
                os.link(self._output, self.before)
            except OSError:  # a file system without links
                with replacing(self.before) as part:
                    shutil.copy2(self._output, part)
        (self.folder / REPLACED).touch()

    def remove(self) -> None:
        """Delete the folder: the clip is finished, or nothing has been kept."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def before(self) -> Path:
        """Where the clip is kept that is replaced."""
        return self.folder / BEFORE

    def _path(self, group: int) -> Path:
        return self.folder / GROUP.format(group)
