"""A server whose pictures are decoded beforehand, so that what it costs is sending alone.

python tests/support/sender.py --width 640 --height 360

prints its address, and serves until it is interrupted.
"""

import argparse
import asyncio
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
from helpers import SAMPLE
from playing import make_server

from encoder.cli.options import SAMPLE as SOURCE
from encoder.codec.clip import Clip
from player.playback.clip_source import ClipSource
from player.server.app import serve
from player.server.limits import Limits

RATE = Fraction(30)


class Decoded:
    """Stands in for an engine."""

    name, batch, lost_segments = "decoded", 8, 0

    def __init__(self, pictures):
        self._pictures = pictures

    def frames(self, times):
        first = int(times[0]) % (len(self._pictures) - self.batch)
        return self._pictures[first : first + len(times)]  # no copy, which would count as sending

    def close(self):
        pass


def make_item(width: int, height: int) -> ClipSource:
    """Return the sample at a size."""
    with av.open(SOURCE) as container:
        frames = [
            frame.reformat(width, height, "yuv420p").to_ndarray()
            for frame in container.decode(video=0)
        ]
    clip = Clip.read(SAMPLE)
    clip = replace(clip, header=replace(clip.header, width=width, height=height, rate=RATE))
    return ClipSource("decoded", clip, lambda _: Decoded(np.stack(frames)), file_bytes=1)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    args = parser.parse_args()
    app = make_server(
        [make_item(args.width, args.height)], limits=Limits(viewers=1000, per_address=1000)
    )
    asyncio.run(serve(app, "127.0.0.1", 0, announce=lambda url: print(url, flush=True)))


if __name__ == "__main__":
    main()
