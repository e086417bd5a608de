"""The library of the C files beside this one: how it is compiled at installation, and found.

`hatch_build.py` runs this file by itself, so it imports nothing but the standard library.
"""

import ctypes
import os
import platform
import shlex
import subprocess
import zlib
from pathlib import Path

FOLDER = Path(__file__).parent
FLAGS = (
    "-O3", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=fast",
)  # fmt: skip
X86_FLAGS = {"AVX512": ["-march=x86-64-v4"], "AVX2": ["-march=x86-64-v3"]}
"""Compiler flags by torch's name of the instructions of a CPU of x86-64; other CPUs need none."""
ANY = "any"
"""Kind of all other CPUs."""
SECONDS = 120
"""Time limit of a compilation."""


def path_of(capability: str) -> Path:
    """Return the library's path for a CPU, by torch's name of its capability.

    It depends on the sources, so that a library of others is never loaded.
    """
    sources = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]")))
    kind = capability if capability in _kinds() else ANY
    return FOLDER / f"kernels-{zlib.crc32(sources):08x}-{platform.machine()}-{kind}.so"


def compile_all() -> list[Path]:
    """Compile the library for all kinds of this CPU by $CC or cc; return what could be compiled."""
    for old in FOLDER.glob("kernels-*"):
        old.unlink()
    return [path for kind, flags in _kinds().items() if _compile(path := path_of(kind), flags)]


def _kinds() -> dict[str, list[str]]:
    return X86_FLAGS if platform.machine() in {"x86_64", "AMD64"} else {ANY: []}


def _compile(path: Path, flags: list[str]) -> bool:
    compiler = shlex.split(os.environ.get("CC", "cc"))
    sources = map(str, sorted(FOLDER.glob("*.c")))
    part = path.with_suffix(".part")
    try:
        subprocess.run(  # noqa: S603 (the compiler of who installs this)
            [*compiler, *FLAGS, *flags, "-o", str(part), *sources, "-lm"],
            check=True,
            capture_output=True,
            timeout=SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        part.unlink(missing_ok=True)
        return False
    part.rename(path)
    return True


def load(capability: str) -> ctypes.CDLL | None:
    """Return the library for a CPU, or None if it was not compiled or cannot be loaded."""
    try:
        return ctypes.CDLL(str(path_of(capability)))
    except OSError:
        return None
