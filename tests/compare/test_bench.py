import json
from dataclasses import replace

import pytest
import torch
from helpers import run
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from encoder.compare.benchmark import GRADIENTS, bench, peak_gflops, profiled
from encoder.compare.step_profile import (
    CONVOLUTIONS,
    LAYOUT,
    OPTIMIZER,
    OTHER,
    POINTWISE,
    RATE,
    WARPS,
    kind_of,
)
from encoder.models.base import VideoNetwork, VideoShape
from encoder.presets import PRESETS, complexity
from encoder.training.losses import squared

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["fast", "nerv", "hnerv", "nirvana"])
def test_figures_belong_together(name):
    speed = bench(PRESETS[name], "XS", height=36, width=64, device=CPU)
    assert 0 < speed.share_of_peak < 1
    assert 1 < speed.peak_gflops < 1e6
    frames = 3 if name == "nirvana" else PRESETS[name].recipe.batch
    assert speed.frames_per_second == pytest.approx(frames * speed.steps_per_second)


def test_arithmetic_is_three_times_that_of_decoding():
    """Backwards it takes twice as much as forwards, but for what depends on nothing that is learned."""
    nerv, shape = PRESETS["nerv"], VideoShape(height=72, width=128, frames=12)
    preset = replace(
        nerv, recipe=replace(nerv.recipe, loss=squared)
    )  # others have arithmetic of their own
    decoding = 2e-9 * complexity(preset, "S", shape).macs_per_pixel * 72 * 128
    speed = bench(preset, "S", height=72, width=128, device=CPU)
    assert speed.gflop_per_step == pytest.approx(3 * decoding, rel=0.05)


@pytest.mark.parametrize("groups", [1, 2, 32])
def test_gradients_take_twice_the_arithmetic_of_a_convolution(groups):
    """Also those of a depthwise one, of which torch's own counter counts far too much."""
    with torch.device("meta"):
        x = torch.zeros(4, 32, 9, 16, requires_grad=True)
        weight = torch.zeros(32, 32 // groups, 3, 3, requires_grad=True)
        with FlopCounterMode(display=False) as forward:
            y = F.conv2d(x, weight, groups=groups)
        with FlopCounterMode(display=False, custom_mapping=GRADIENTS) as backward:
            y.sum().backward()
    assert forward.get_total_flops() == 2 * y.numel() * weight[0].numel()
    assert backward.get_total_flops() == 2 * forward.get_total_flops()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_arithmetic_is_the_wanted_one(precision, tmp_path, monkeypatch):
    seen = set()
    forward = VideoNetwork.__call__

    def noted(network, *args):
        output = forward(network, *args)
        seen.add(output.dtype)
        return output

    monkeypatch.setattr(VideoNetwork, "__call__", noted)
    command = f"encoder bench --preset nerv --size XS --resize 16x16 --precision {precision} --json"
    done = run(command, tmp_path)
    assert json.loads(done.stdout)["steps_per_second"] > 0
    assert seen == {torch.float32 if precision == "fp32" else torch.bfloat16}


@pytest.mark.parametrize("allowed", [True, False])
def test_precision_of_products_is_left_as_it_was(allowed):
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        assert peak_gflops(CPU) > 1
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_profile_has_the_parts_of_a_step():
    parts = profiled(PRESETS["fast"], "XS", height=72, width=128)
    assert {part.part for part in parts} == {
        CONVOLUTIONS,
        WARPS,
        LAYOUT,
        POINTWISE,
        RATE,
        OPTIMIZER,
        OTHER,
    }
    assert sum(part.share for part in parts) == pytest.approx(1)
    times = [part.milliseconds for part in parts]
    assert times == sorted(times, reverse=True)
    assert all(part.milliseconds > 0 and part.floor_milliseconds >= 0 for part in parts)
    floors = {part.part: part.floor_milliseconds for part in parts}
    assert floors[OTHER] == 0 < floors[CONVOLUTIONS]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tanh", POINTWISE),
        ("t", OTHER),
        ("index_select", LAYOUT),
        ("select", OTHER),
        ("_to_copy", LAYOUT),
        ("to", OTHER),
        ("mm", CONVOLUTIONS),
        ("grid_sampler_2d_backward", WARPS),
    ],
)
def test_operators_are_of_a_kind_by_their_whole_names(name, kind):
    assert kind_of(f"aten::{name}") == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("_Render", WARPS),
        ("_RenderBackward", WARPS),
        ("_ScaledGeluBackward", POINTWISE),
        ("AddcmulBackward0", OTHER),
    ],
)
def test_operators_of_our_own_have_a_kind(name, kind):
    assert kind_of(name) == kind


def test_profile_is_a_table_or_json(tmp_path):
    command = "encoder bench --preset nerv --size XS --resize 16x16 --device cpu --profile"
    assert CONVOLUTIONS in run(command, tmp_path).stdout
    parts = json.loads(run(f"{command} --json", tmp_path).stdout)
    # A recipe without a rate term has no time for it.
    assert RATE not in {part["part"] for part in parts}
