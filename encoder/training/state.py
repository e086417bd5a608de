"""State of a fit, from which a later run goes on."""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

FitState = dict[str, Any]
"""Tensors, numbers and collections of them, by name; `torch.save` can write it."""


class Stateful:
    """Object whose state is some of its attributes."""

    STATE: ClassVar[tuple[str, ...]] = ()
    """Names of these attributes."""

    def state_dict(self) -> FitState:
        """Return a copy of the state."""
        return copy.deepcopy({name: getattr(self, name) for name in self.STATE})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of another object of this class."""
        for name in self.STATE:
            setattr(self, name, copy.deepcopy(state[name]))
