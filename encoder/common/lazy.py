"""Interfaces of packages whose parts are imported when they are first asked for (PEP 562)."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_parts(package: str, places: Mapping[str, tuple[str, str]]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`: each name has a module, and its name there."""

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = places[name]
        return getattr(import_module(module), attribute)

    return find
