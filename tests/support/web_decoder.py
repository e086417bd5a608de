"""The decoder of the web page, run by Node."""

import base64
import gzip
import json
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from export.web.folder import assets

ROOT = Path(__file__).parents[2]
SITE = ROOT / "export" / "web" / "site"
NODE = shutil.which("node")


UNUSED = {
    "captions.css",
    "captions.js",
    "dictionary1.bin",
    "extras.js",
    "fallback.js",
    "film.js",
    "gpu.js",
    "kernels.wasm",
    "ladder.js",
    "nervcast.d.ts",
    "package.json",
    "ranges.js",
    "rungs.js",
    "shaders.js",
    "soundtrack.js",
    "speed.html",
    "speed.js",
    "volume.js",
}
"""Files that the page does not load, for a clip of the present version with pictures alone."""


def page_bytes() -> int:
    """Return the compressed size of all that the page loads, without the clip."""
    return sum(len(gzip.compress(data)) for name, data in assets() if name not in UNUSED)


class WebDecoder:
    """A running decoder."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process

    def decode(self, data: bytes, times: Sequence[float] = ()) -> dict:
        """Return what comes of a file: `outcome`, `digests` of the weights, and `pictures` as RGBA bytes at times."""
        self._process.stdin.write(struct.pack(f"<II{len(times)}d", len(data), len(times), *times))
        self._process.stdin.write(data)
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        found["pictures"] = [base64.b64decode(picture) for picture in found["pictures"]]
        return found

    def frames(self, data: bytes, times: Sequence[float], size: tuple[int, int]) -> np.ndarray:
        """Return RGB pictures (N, 3, H, W) of a size (W, H) at times."""
        width, height = size
        found = self.decode(data, times)
        assert found["outcome"] == "decoded", found["message"]
        pixels = np.frombuffer(b"".join(found["pictures"]), np.uint8)
        return pixels.reshape(-1, height, width, 4)[..., :3].transpose(0, 3, 1, 2)


KERNELS = ("kernels.wasm", "kernels-fused.wasm")
"""Builds of the kernels; the second is for machines with fused multiplication and addition."""
RELAXED = "--experimental-wasm-relaxed-simd"
"""Flag of Node before 22 for the instructions of the second build."""


@contextmanager
def web_decoder(kernels: str = KERNELS[0]) -> Iterator[WebDecoder]:
    """Start a decoder with a build of the kernels."""
    tried = subprocess.run([NODE, RELAXED, "-e", "0"], check=False, capture_output=True)
    is_old = not tried.returncode
    command = [NODE, *([RELAXED] if is_old else []), str(ROOT / "tests/support/decode.mjs")]
    command += [str(SITE), str(ROOT / "encoder/codec"), kernels]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield WebDecoder(process)
        process.stdin.close()
