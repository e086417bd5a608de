"""Measures decoding in browsers: `python tests/support/browser_speed.py --seconds 60` prints a table.

The machine must be quiet. Clips of three sizes are fitted for some seconds each: what they show costs as much as any other clip
of their size. With `--onnxruntime-web FOLDER`, the unpacked npm package decodes the same clips by its WebAssembly for comparison.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from chromium import before_each_page, browsing
from firefox import Firefox
from waiting import wait_for
from web_decoder import page_bytes

from export.cli.main import main as export

SOURCE = Path(__file__).parents[2] / "encoder" / "data" / "bunny_720p.mp4"
SIZES = {"320x180": 1, "640x360": 1, "1280x720": 2}
"""Sizes of frames, and the workers that decode them."""
FIT_SECONDS = 20
PLAY = """
(async () => {{
  const {{ NervPlayer }} = await import("./nervcast.js");
  document.body.replaceChildren(document.createElement("canvas"));
  const player = new NervPlayer(document.querySelector("canvas"), {{ workers: {workers} }});
  const began = performance.now();
  player.loop = true;
  await player.load("{size}.nerv");
  const ready = performance.now() - began;
  player.play();
  // Compilers of the browser take a moment.
  await new Promise((resolve) => setTimeout(resolve, 3000));
  const late = player.statistics.lateFrames;
  await new Promise((resolve) => setTimeout(resolve, {seconds} * 1000));
  const found = {{ ...player.statistics, ready }};
  found.lateFrames -= late;
  player.pause();
  const seeks = [];
  for (const time of [3, 1, 4, 0, 2]) {{
    const start = performance.now();
    const seeked = new Promise((resolve) => player.addEventListener("seeked", resolve, {{ once: true }}));
    player.currentTime = time;
    await seeked;
    seeks.push(performance.now() - start);
  }}
  found.seek = Math.max(...seeks);
  player.destroy();
  return found;
}})()
"""
NAVIGATE = """
addEventListener("DOMContentLoaded", () => {
  const look = () => {
    const isShown = window.nervcast?.statistics.drawnFps > 0;
    if (isShown) window.firstPicture = performance.now();
    else setTimeout(look, 2);
  };
  look();
});
"""
"""Notes when the page has drawn its first picture, in milliseconds from the navigation on."""
NAVIGATIONS = 5
RUNTIME = """
(async () => {{
  const ort = await import("./ort/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL("./ort/", location.href).href;
  const session = await ort.InferenceSession.create("{size}.onnx", {{ executionProviders: ["wasm"] }});
  const run = (time) => session.run({{ t: new ort.Tensor("float32", [time], [1]) }});
  for (let time = 0; time < 40; time++) await run(time);
  const began = performance.now();
  for (let time = 0; time < 60; time++) await run(time);
  return (performance.now() - began) / 60;
}})()
"""


@contextmanager
def hosting(folder: Path):
    """Serve a folder; give its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def make_site(folder: Path, runtime: Path | None) -> None:
    """Fit a clip of each size, and write the site and the graphs."""
    for size in SIZES:
        clip = folder / f"{size}.nerv"
        options = ["--resize", size, "--budget", str(FIT_SECONDS), "-o", str(clip)]
        subprocess.run([sys.executable, "-m", "encoder", "fit", str(SOURCE), *options], check=True)
        export(["onnx", str(clip), "-o", str(folder / f"{size}.onnx"), "--pixels", "rgb"])
    export(["web", *(str(folder / f"{size}.nerv") for size in SIZES), "-o", str(folder)])
    (folder / "empty.html").write_text("<!doctype html><title>nervcast</title><body></body>")
    if runtime is not None:
        shutil.copytree(runtime / "dist", folder / "ort")


def tell(browser: str, size: str, found: dict) -> None:
    """Print a row."""
    print(
        f"| {browser} | {size} | {found['workers']} | {found['decodeMilliseconds']:.1f} ms "
        f"| {found['drawnFps']:.1f} | {found['lateFrames']} | {found['ready']:.0f} ms | {found['seek']:.0f} ms "
        f"| {found['memoryBytes'] / 2**20:.0f} MiB |",
        flush=True,
    )


def navigate(driver, address: str) -> float:
    """Open a page; return the milliseconds until its first picture."""
    driver.get("about:blank")
    driver.get(address)
    wait_for(lambda: driver.execute_script("return window.firstPicture") is not None)
    return driver.execute_script("return window.firstPicture")


async def watch_in_firefox(url: str, profile: Path, scripts: dict[str, str], seconds: int) -> None:
    """Play each clip in Firefox."""
    async with Firefox(profile) as firefox:
        for size, script in scripts.items():
            await firefox.open(f"{url}/empty.html")
            # A question has to be answered sooner than this takes.
            await firefox.evaluate(f"void (window.found = {script.strip()})")
            await asyncio.sleep(seconds + 5)
            tell("Firefox", size, await firefox.evaluate("window.found"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--onnxruntime-web", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    print(f"page: {page_bytes()} bytes compressed")
    scripts = {
        size: PLAY.format(size=size, workers=workers, seconds=args.seconds)
        for size, workers in SIZES.items()
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_site(folder, args.onnxruntime_web)
        with hosting(folder) as url:
            print(
                "| browser | frames | workers | a frame | drawn fps | late | first picture | longest seek | memory |"
            )
            print("|---|---|---|---|---|---|---|---|---|")
            with browsing(folder / "chromium") as driver:
                driver.set_script_timeout(2 * args.seconds + 60)

                def run(script: str):
                    driver.get(f"{url}/empty.html")
                    return driver.execute_async_script(
                        f"const done = arguments[0]; {script.strip()}.then(done, (error) => done(String(error)));"
                    )

                for size, script in scripts.items():
                    tell("Chromium", size, run(script))
                before_each_page(driver, NAVIGATE)
                for size in SIZES:
                    moments = [navigate(driver, f"{url}/?clip={size}") for _ in range(NAVIGATIONS)]
                    print(
                        f"first picture of {size} after navigation: {min(moments):.0f} to {max(moments):.0f} ms"
                    )
                for size in SIZES if args.onnxruntime_web else ():
                    milliseconds = run(RUNTIME.format(size=size))
                    print(f"onnxruntime-web at {size}: {milliseconds} ms a frame", flush=True)
            asyncio.run(watch_in_firefox(url, folder / "firefox", scripts, args.seconds))


if __name__ == "__main__":
    main()
