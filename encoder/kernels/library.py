"""The library of the C files beside this one: how it is compiled at installation, and found.

`hatch_build.py` runs this file by itself, so it imports nothing but the standard library.
"""

import ctypes
import os
import platform
import shlex
import subprocess
import tempfile
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

    It depends on the sources and the flags, so that a library of others is never loaded.
    """
    sources = sorted((*FOLDER.glob("*.[ch]"), Path(__file__)))
    code = zlib.crc32(b"".join(path.read_bytes() for path in sources))
    kind = capability if capability in _kinds() else ANY
    return FOLDER / f"kernels-{code:08x}-{platform.machine()}-{kind}.so"


def compile_all() -> tuple[list[Path], str]:
    """Compile the library for all kinds of this CPU by $CC or cc, and remove older ones.

    Returns the compiled libraries and an error's text, of which one is empty.
    """
    paths = {kind: path_of(kind) for kind in _kinds()}
    try:
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            for kind, path in paths.items():
                part = Path(folder) / path.name
                _compile(part, _kinds()[kind])
                part.replace(path)
        for old in set(FOLDER.glob("kernels-*.so")) - set(paths.values()):
            old.unlink(missing_ok=True)
    except subprocess.CalledProcessError as error:
        return [], error.stderr.strip() or str(error)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return [], str(error)
    return list(paths.values()), ""


def load(capability: str) -> ctypes.CDLL | None:
    """Return the library for a CPU, or None if it was not compiled or cannot be loaded."""
    try:
        return ctypes.CDLL(str(path_of(capability)))
    except OSError:
        return None


def _kinds() -> dict[str, list[str]]:
    return X86_FLAGS if platform.machine() in {"x86_64", "AMD64"} else {ANY: []}


def _compile(path: Path, flags: list[str]) -> None:
    compiler = shlex.split(os.environ.get("CC") or "cc")
    sources = map(str, sorted(FOLDER.glob("*.c")))
    subprocess.run(  # noqa: S603 (the compiler of who installs this)
        [*compiler, *FLAGS, *flags, "-o", str(path), *sources, "-lm"],
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
