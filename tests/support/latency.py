"""Measure the time from drawing a picture to its being on Chromium's screen, by a time stamp in the picture.

python tests/support/latency.py [--seconds 30] [CLIP]

prints milliseconds: the median, the 95th percentile, and how many pictures were read.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from chromium import browsing, serving
from waiting import wait_for

READ = """
const done = arguments[arguments.length - 1], seconds = arguments[0];
import("/static/stamp.js").then(({ StampReader }) => {
  const video = document.getElementById("video"), stamps = new StampReader();
  const until = performance.now() + 1000 * seconds;
  const next = () => video.requestVideoFrameCallback((now, { expectedDisplayTime }) => {
    stamps.read(video, expectedDisplayTime);
    if (now < until) next();
    else done(stamps.ages.map(({ age }) => age));
  });
  next();
});
"""


def measure(clip: Path | None, seconds: float) -> dict[str, float]:
    """Return the median and 95th percentile of the latencies of the pictures that are shown in some seconds."""
    with tempfile.TemporaryDirectory() as folder:
        clips = [] if clip is None else [str(clip.resolve())]
        with (
            serving("--stamp", *clips, cwd=Path(folder)) as (_, url),
            browsing(Path(folder) / "profile") as driver,
        ):
            driver.set_script_timeout(seconds + 30)
            driver.get(url)
            wait_for(
                lambda: driver.execute_script("return document.getElementById('video').videoWidth")
            )
            time.sleep(3)  # until the jitter buffer knows the connection
            ages = sorted(driver.execute_async_script(READ, seconds))
    return {
        "p50_ms": ages[len(ages) // 2],
        "p95_ms": ages[int(0.95 * (len(ages) - 1))],
        "pictures": len(ages),
    }


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    print(json.dumps(measure(args.clip, args.seconds)))


if __name__ == "__main__":
    main()
