"""The parts of a step's time on a CPU, by kinds of operators, and the floor of each."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from statistics import median
from typing import Any, cast

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from encoder.training.qat import RATE_TERM

CONVOLUTIONS = "convolutions, products"
WARPS = "warps, interpolation"
LAYOUT = "copies, layouts"
POINTWISE = "pointwise, sums"
RATE = "rate term"
OPTIMIZER = "optimizers"
OTHER = "python, dispatch"
KINDS = {
    CONVOLUTIONS: ("convolution", "::mm", "bmm", "addmm", "matmul"),
    WARPS: ("grid_sampler", "upsample"),
    LAYOUT: ("copy", "clone", "::cat", "index", "fill_", "zero_", "gather", "scatter"),
}
"""Parts of the names of operators; other operators count as pointwise."""
OURS = {
    "_Render": WARPS,
    "_Grids": WARPS,
    "_Mixed": CONVOLUTIONS,
    "_SeparableBlock": CONVOLUTIONS,
    "_ScaledGelu": POINTWISE,
    "_MeanSquare": POINTWISE,
}
"""Operators of our own, outside the rate term. Those of their gradients end in `Backward`."""
VIEWS = {
    f"aten::{name}"
    for name in (
        "view", "_unsafe_view", "as_strided", "expand", "expand_as", "t", "transpose", "permute",
        "slice", "select", "detach", "detach_", "squeeze", "unsqueeze", "empty", "empty_like",
        "empty_strided", "reshape", "_reshape_alias", "alias", "unbind", "split",
        "split_with_sizes", "unflatten", "flatten", "to", "resize_", "result_type", "item",
        "_local_scalar_dense", "lift_fresh", "contiguous",
    )
}  # fmt: skip
"""Operators that move no data themselves."""
BACKWARD_SUFFIX = "Backward"
BACKWARD = "autograd::engine::evaluate_function"
FLOAT_BYTES = 4
COPIED = 1 << 19
"""Floats of a copy that measures the bandwidth: 2 MiB, about a step's largest tensors."""
COPIES = 50
MILLI = 1e3


@dataclass(frozen=True, kw_only=True)
class Part:
    """A kind of operators in a step."""

    part: str
    milliseconds: float
    """Time in a step."""
    share: float
    """Share of the step's time."""
    floor_milliseconds: float
    """Time of its arithmetic at the rate of a matrix product, or of its bytes at that of a copy."""


def profile_steps(
    run: Callable[[], object], *, steps: int, gflop: float, peak: float
) -> list[Part]:
    """Return the parts of a number of steps that a function takes on a CPU, the longest first.

    `gflop` is the arithmetic of the convolutions and products in a step, in billions of operations;
    `peak` is how many of them the machine does in a second. Profiling slows small operators down.
    """
    run()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        began = time.perf_counter()
        run()
        wall = time.perf_counter() - began
    spent, moved = defaultdict[str, float](float), Counter[str]()
    for kind, event in _classified(profiler.events() or []):
        spent[kind] += event.self_cpu_time_total / 1e6
        moved[kind] += _bytes(event)
    spent[OTHER] += max(wall - sum(spent.values()), 0.0)
    total = sum(spent.values())
    bandwidth = bytes_per_second()
    floors = {kind: moved[kind] / bandwidth / steps for kind in spent}
    floors |= {CONVOLUTIONS: gflop / peak, OTHER: 0.0}
    return [
        Part(
            part=kind,
            milliseconds=MILLI * seconds / steps,
            share=seconds / total,
            floor_milliseconds=MILLI * floors[kind],
        )
        for kind, seconds in sorted(spent.items(), key=lambda each: -each[1])
    ]


def bytes_per_second() -> float:
    """Return how many bytes per second a copy reads and writes."""
    source, target = torch.rand(COPIED), torch.empty(COPIED)
    seconds: list[float] = []
    for _ in range(COPIES):
        began = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - began)
    return 2 * FLOAT_BYTES * COPIED / median(seconds)


def _classified(events: list[FunctionEvent]) -> Iterator[tuple[str, FunctionEvent]]:
    """Yield the kind of each event with it."""
    # Operators of the rate term, by their numbers in autograd, which their gradients share.
    rated = {
        event.sequence_nr
        for event in events
        if event.sequence_nr >= 0 and any(each.name == RATE_TERM for each in _ancestors(event))
    }
    for event in events:
        above = list(_ancestors(event))
        if any(each.name.startswith("Optimizer.") for each in above):
            yield OPTIMIZER, event
        elif any(each.name == RATE_TERM or _is_gradient(each, rated) for each in above):
            yield RATE, event
        else:
            yield kind_of(event.name), event


def _is_gradient(event: FunctionEvent, rated: set[int]) -> bool:
    return event.name.startswith(BACKWARD) and event.sequence_nr in rated


def _ancestors(event: FunctionEvent | None) -> Iterator[FunctionEvent]:
    """Yield an event, and all within which it lies."""
    while event is not None:
        yield event
        event = event.cpu_parent


def kind_of(name: str) -> str:
    """Return the kind of an operator by its name, as `aten::mm` or `_RenderBackward`."""
    if not name.startswith("aten::"):
        return OURS.get(name.removesuffix(BACKWARD_SUFFIX), OTHER)
    if name in VIEWS:
        return OTHER
    return next((kind for kind, parts in KINDS.items() if any(x in name for x in parts)), POINTWISE)


def _bytes(event: FunctionEvent) -> int:
    """Return the bytes that an operator reads and writes at least, if the work is its own."""
    is_outer = event.self_cpu_time_total < event.cpu_time_total / 2
    if is_outer or event.name in VIEWS:
        return 0
    shapes = cast("Sequence[Any]", event.input_shapes or ())  # nested for lists of tensors
    sizes = [prod(shape) for shape in shapes if shape and isinstance(shape[0], int)]
    return FLOAT_BYTES * (sum(sizes) + max(sizes, default=0))
