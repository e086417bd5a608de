"""State of an interrupted run, kept beside its clip, from which another run goes on."""

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
"""Copy of the clip that the run replaces."""
LOCK = "lock"
"""File that a run locks."""
REPLACED = "replaced"
"""File whose presence tells that the output is the run's own clip."""
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
"""Errors from reading a damaged file."""


class RunState:
    """A folder with the state of each group of segments (GOP)."""

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        """Take the clip's path and the settings on which its bytes depend."""
        self._output = output.resolve()  # the current folder of workers may differ
        self._settings = settings
        self.folder = self._output.with_name(f".{output.name}.unfinished")

    @property
    def exists(self) -> bool:
        """Whether an earlier run left a state to go on from."""
        return any(self.folder.glob(GROUP.format("*")))

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Lock the folder against other runs.

        The folder is made if it is missing, and deleted at the end if it holds no state.

        Raises OSError, and RunError if another run holds the lock.
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
        """Make the folder if it is missing, and write the settings; raises OSError."""
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
        """Advice for a user who does not want to resume."""
        kept = (
            f", after taking {self.before.name} out of it, the clip that was there before"
            if self.before.exists()
            else ""
        )
        return f"to start anew, delete {self.folder}{kept}"

    def load(self, group: int, tensors: int) -> GopState | None:
        """Return the state of a group; None if none was saved.

        `tensors` is the number of tensors of a segment. Raises RunError for a file that cannot be
        read.
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
        """Save the state of a group; a failure, as on a full disk, is only logged."""
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
        buffer = io.BytesIO()  # torch's own errors about files are unclear
        torch.save(kept, buffer)
        try:
            with replacing(self._path(group)) as part:
                part.write_bytes(buffer.getbuffer())
        except (OSError, RunError) as error:
            logger.warning("how far the fit is cannot be saved: %s", error)

    def keep(self) -> None:
        """Keep the clip that is about to be replaced, unless it is this run's own."""
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
        """Delete the folder, once the clip is finished or if the folder holds no state."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def before(self) -> Path:
        """Path of the kept copy of the replaced clip."""
        return self.folder / BEFORE

    def _path(self, group: int) -> Path:
        return self.folder / GROUP.format(group)
