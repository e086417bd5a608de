"""A checkpoint: the networks of a fit before quantisation, and what it takes to go on with them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from encoder.common.errors import SourceError
from encoder.media.reading import Background, Matrix, Reading
from encoder.presets import SizeName

State = dict[str, Tensor]
KEY = "nervcast"
"""Key of the metadata under which a checkpoint says how it was made."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """How a fit was made."""

    source: str
    """Path of the video or folder."""
    width: int
    """Width of a frame, in pixels."""
    height: int
    """Height of a frame, in pixels."""
    preset: str
    size: SizeName
    mask: str | None
    """Path of the mask, if there was one."""
    segment_frames: int
    """Largest number of frames of a segment."""
    key_interval: int
    """Most segments from one key to the next."""
    seed: int
    seconds: float
    """Wall-clock time that the fit took."""
    track: int | None = None
    """Number of the video track, if it was named."""
    matrix: Matrix | None = None
    """Matrix between RGB and YUV, if it was named."""
    background: Background = "black"
    """What transparent pictures were put upon."""

    @property
    def reading(self) -> Reading:
        """How the video is read."""
        return Reading(self.track, self.matrix, self.background)

    def settings(self, options: str) -> str:
        """Return what a file says about how it was made, with further options."""
        mask = f" --mask {Path(self.mask).name}" if self.mask else ""
        first = f"--preset {self.preset} --size {self.size} --resize {self.width}x{self.height}{self.reading.flags}{mask}{options}"
        return f"{first} --segment-frames {self.segment_frames} --key-interval {self.key_interval} --seed {self.seed}"

    def save(self, path: Path, states: Sequence[State]) -> None:
        """Write the networks' states to a file, one for each segment."""
        tensors = {
            f"{index}.{name}": x.contiguous()
            for index, state in enumerate(states)
            for name, x in state.items()
        }
        save_file(tensors, path, metadata={KEY: json.dumps(asdict(self))})

    @classmethod
    def load(cls, path: Path) -> tuple[Self, list[State]]:
        """Read a file; raises SourceError for one that is no checkpoint."""
        try:
            with safe_open(path, "pt") as file:
                checkpoint = cls(**json.loads(file.metadata()[KEY]))
                found: dict[int, State] = {}
                for key in file.keys():  # noqa: SIM118 (the file is no mapping)
                    index, name = key.split(".", 1)
                    found.setdefault(int(index), {})[name] = file.get_tensor(key)
                states = [found[index] for index in range(len(found))]
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror or error}") from None
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise SourceError(f"{path} is no checkpoint of a fit") from None
        return checkpoint, states
