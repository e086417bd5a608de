"""Engines by name, and the choice of the fastest one."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.clip import open_clip
from encoder.codec.clip import Clip
from encoder.common.cache import cache_folder, keep
from encoder.common.errors import CodecError, EngineError, SettingsError
from export.engines.base import DEFAULT_BATCH, Engine
from export.engines.ort import OnnxRuntimeCpu, OnnxRuntimeCuda
from export.engines.ov import OpenVino
from export.graph import PixelFormat
from export.hardware import describe

TRIAL_SECONDS = 1.0
"""Time for which each engine decodes in a trial."""
MAX_CHOICES = 256
"""Maximum number of remembered choices."""

_CHOSEN: dict[str, str] = {}
"""Fastest engines that this process found, for the case that the cache file cannot be written."""

logger = logging.getLogger(__name__)


def _tensorrt(clip: Clip, **options: Any) -> Engine:
    from export.engines.trt import TensorRt

    return TensorRt(clip, **options)


def _tensorrt_rtx(clip: Clip, **options: Any) -> Engine:
    from export.engines.trt import TensorRtRtx

    return TensorRtRtx(clip, **options)


ENGINES: Mapping[str, Callable[..., Engine]] = {
    "tensorrt": _tensorrt,
    "onnxruntime-cuda": OnnxRuntimeCuda,
    "tensorrt-rtx": _tensorrt_rtx,
    "openvino": OpenVino,
    "onnxruntime-cpu": OnnxRuntimeCpu,
}
"""Engines by name."""


def open_engine(
    clip: Clip | str | Path,
    name: str = "auto",
    *,
    batch: int = DEFAULT_BATCH,
    pixels: PixelFormat = "i420",
    failed: Collection[str] = (),
) -> Engine:
    """Open an engine by name, or the fastest one for the clip, with its first segment loaded.

    The clip may be a path or an http(s) URL.
    If `failed` names engines that failed while they ran, open the next one in order, whatever the
    name. Raises SettingsError for an unknown name. Raises EngineError if the engine is not
    installed, lacks its device or refuses the clip, or if no engine is left.
    """
    if not isinstance(clip, Clip):
        clip = open_clip(clip)
    if failed:
        return _next(clip, failed, batch=batch, pixels=pixels)
    if name == "auto":
        return _fastest(clip, batch=batch, pixels=pixels)
    if name not in ENGINES:
        raise SettingsError(f"unknown engine {name!r}, known are: auto, {', '.join(ENGINES)}")
    engine = ENGINES[name](clip, batch=batch, pixels=pixels)
    try:
        engine.warm_up()
    except CodecError:
        engine.close()
        raise
    return engine


def _next(clip: Clip, failed: Collection[str], *, batch: int, pixels: PixelFormat) -> Engine:
    for name in ENGINES:
        if name not in failed:
            try:
                return open_engine(clip, name, batch=batch, pixels=pixels)
            except EngineError as error:
                logger.debug("%s is left out: %s", name, error)
    raise EngineError(f"no engine is left for this clip: {', '.join(sorted(failed))} failed")


def _open_all(clip: Clip, *, batch: int, pixels: PixelFormat) -> list[Engine]:
    """Open the engines that run a clip here; raises EngineError if none does."""
    opened: list[Engine] = []
    for name in ENGINES:
        try:
            opened.append(open_engine(clip, name, batch=batch, pixels=pixels))
        except EngineError as error:
            logger.debug("%s is left out: %s", name, error)
            # The last engine runs wherever this program does: if it refuses a clip, the clip is at
            # fault.
            if not opened and name == OnnxRuntimeCpu.name:
                raise
    return opened


def _fastest(clip: Clip, *, batch: int, pixels: PixelFormat) -> Engine:
    """Open the fastest engine for a clip on this machine.

    The choice for such a clip is remembered; the first time, engines are measured.
    """
    key = _key(clip, batch, pixels)
    if known := _choices().get(key) or _CHOSEN.get(key):
        with suppress(EngineError):
            return open_engine(clip, known, batch=batch, pixels=pixels)
    engines = _open_all(clip, batch=batch, pixels=pixels)
    speeds = [_fps(engine) if len(engines) > 1 else 0.0 for engine in engines]
    best = engines[speeds.index(max(speeds))]
    for engine in engines:
        if engine is not best:
            engine.close()
    if len(engines) > 1:
        found = ", ".join(
            f"{engine.name} {fps:.1f}" for engine, fps in zip(engines, speeds, strict=True)
        )
        logger.debug("frames per second by a trial, which is remembered: %s", found)
    _remember(key, best.name)
    return best


def _fps(engine: Engine) -> float:
    """Return the frames per second of an engine in a trial; 0 if it fails."""
    segment = engine.clip.segments[engine.warm_up()]
    times = (segment.start + np.arange(engine.batch) % segment.frames).astype(np.float64)
    try:
        return _measured(engine, times)
    except EngineError as error:
        logger.debug("%s fails: %s", engine.name, error)
        return 0.0
    finally:
        engine.reset()


def _measured(engine: Engine, times: NDArray[np.float64]) -> float:
    engine.frames(times)  # the first run also allocates
    engine.wait_idle()
    began = time.perf_counter()
    decoded = 0
    while (seconds := time.perf_counter() - began) < TRIAL_SECONDS:
        engine.frames(times)
        decoded += engine.batch
    return decoded / seconds


def _key(clip: Clip, batch: int, pixels: PixelFormat) -> str:
    what = f"{describe()} {batch} {pixels} ".encode() + clip.topology.packed
    return hashlib.sha256(what).hexdigest()


def _path() -> Path:
    return cache_folder() / "engines.json"


def _choices() -> dict[str, str]:
    """Return the remembered engines by the keys of their measurements."""
    try:
        found = json.loads(_path().read_text())
    except (OSError, ValueError):
        return {}
    return (
        {key: name for key, name in found.items() if name in [*ENGINES]}
        if isinstance(found, dict)
        else {}
    )


def _remember(key: str, name: str) -> None:
    choices = [*_choices().items(), (key, name)][-MAX_CHOICES:]
    keep(_path(), json.dumps(dict(choices)).encode())
    if _choices().get(key) != name:
        _CHOSEN[key] = name
