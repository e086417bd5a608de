"""A checkpoint: the networks of a fit before their final rounding, and the fit's settings."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from encoder.common.errors import CodecError, SourceError
from encoder.config import FitConfig
from encoder.media.size import Size

State = dict[str, Tensor]
"""State of a network, by the names of its parameters."""
KEY = "nervcast"
"""Key of the file's metadata that holds the settings."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Settings of a fit that has ended."""

    source: str
    """Path of the video or folder."""
    width: int
    """Width of a frame, in pixels."""
    height: int
    """Height of a frame, in pixels."""
    seconds: float
    """Wall-clock time of the fit, times its workers."""
    config: FitConfig

    @property
    def size(self) -> Size:
        """Width and height of a frame."""
        return self.width, self.height

    def save(self, path: Path, states: Sequence[State]) -> None:
        """Write the networks' states to a file, one for each segment."""
        tensors = {
            f"{index}.{name}": x.contiguous()
            for index, state in enumerate(states)
            for name, x in state.items()
        }
        save_file(tensors, path, metadata={KEY: json.dumps(asdict(self), default=str)})

    @classmethod
    def load(cls, path: Path) -> tuple[Self, list[State]]:
        """Read a file; raises SourceError for one that is not a checkpoint."""
        try:
            with safe_open(path, "pt") as file:
                kept = json.loads(file.metadata()[KEY])
                checkpoint = cls(**(kept | {"config": FitConfig(**kept["config"])}))
                found: dict[int, State] = {}
                for key in file.keys():  # noqa: SIM118 (the file is not a mapping)
                    index, name = key.split(".", 1)
                    found.setdefault(int(index), {})[name] = file.get_tensor(key)
                states = [found[index] for index in range(len(found))]
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror or error}") from None
        except (SafetensorError, CodecError, KeyError, TypeError, ValueError):
            raise SourceError(f"{path} is no checkpoint of a fit") from None
        return checkpoint, states
