from collections import Counter
from dataclasses import replace

import av
import numpy as np
import onnx
import pytest
from helpers import fit_clip

from encoder.codec.clip import SegmentModels
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.onnx_runtime import Session
from encoder.media.colours import RESAMPLING
from encoder.presets import PRESETS
from export.graph import build_graph

TIMES = np.array([0, 1.25, 2], np.float32)


def reference(clip):
    return np.stack([ReferenceDecoder(clip).frame(time) for time in TIMES])


def largest_difference(a, b):
    assert a.shape == b.shape
    return np.abs(a.astype(int) - b).max()


@pytest.fixture(scope="module", params=PRESETS)
def clip(request):
    return fit_clip(request.param, frames=3, height=19, width=26)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rgb_is_that_of_the_reference_decoder(clip, precision):
    model = build_graph(SegmentModels(clip), 0, pixels="rgb", precision=precision)
    onnx.checker.check_model(model, full_check=True)
    assert largest_difference(Session(model).run({"t": TIMES}), reference(clip)) <= 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_i420_is_bt601_of_the_reference_decoder(sample_clip, precision):
    model = build_graph(SegmentModels(sample_clip), 0, precision=precision)
    onnx.checker.check_model(model, full_check=True)
    planes = Session(model).run({"t": TIMES})
    assert planes.shape == (3, 270, 320)
    for picture, rgb in zip(planes, reference(sample_clip), strict=True):
        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        back = (
            frame.reformat(format="rgb24", interpolation=RESAMPLING).to_ndarray().transpose(2, 0, 1)
        )
        # Half the colour resolution is lost on the way; brightness is not, nor is any shift of the colours.
        assert np.abs(back.astype(int) - rgb).mean() < 3
        assert np.abs(back.mean((1, 2)) - rgb.mean((1, 2))).max() < 0.6


def test_odd_sizes_are_completed_in_i420(tiny_clip):
    planes = Session(build_graph(SegmentModels(tiny_clip), 0)).run({"t": TIMES})
    assert planes.shape == (3, 30, 26)
    assert planes.dtype == np.uint8


def test_grey_has_no_colour():
    clip = fit_clip("nerv++", frames=1, height=20, width=20)
    (segment,) = clip.segments
    # Weights of next to zero make the middle of the range.
    grey = replace(
        segment, tensors=tuple(replace(tensor, step=1e-30) for tensor in segment.tensors)
    )
    clip = replace(clip, segments=(grey,))
    (planes,) = Session(build_graph(SegmentModels(clip), 0)).run({"t": TIMES[:1]})
    assert set(planes[:20].ravel()) == {126}
    assert set(planes[20:].ravel()) == {128}


def test_half_precision_halves_the_weights_and_keeps_the_times(sample_clip):
    model = build_graph(SegmentModels(sample_clip), 0, precision="fp16")
    kinds = {x.name: x.data_type for x in model.graph.initializer}
    assert [kind for name, kind in kinds.items() if name.endswith("_half")].count(
        onnx.TensorProto.FLOAT16
    ) >= 23
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert len(model.SerializeToString()) < 0.6 * len(
        build_graph(SegmentModels(sample_clip), 0).SerializeToString()
    )


@pytest.mark.soak
def test_half_precision_tells_late_frames_apart():
    # In 16 bits, 2049 is 2048.
    clip = fit_clip("fast", frames=2052, height=16, width=32, segment_frames=3000)
    assert len(clip.segments) == 1
    half, full = (
        build_graph(SegmentModels(clip), 0, pixels="rgb", precision=precision)
        for precision in ("fp16", "fp32")
    )
    times = np.array([2048, 2049, 2050], np.float32)
    expected = Session(full).run({"t": times})
    assert largest_difference(Session(half).run({"t": times}), expected) <= 1
    assert not np.array_equal(expected[0], expected[1])


def test_rewrites_leave_the_pictures_the_same(tiny_clip):
    models = SegmentModels(tiny_clip)
    times = {"t": np.arange(3, dtype=np.float32)}
    plain = build_graph(models, 0, rewrites=())
    rewritten = build_graph(models, 0)
    assert [node.op_type for node in plain.graph.node] != [
        node.op_type for node in rewritten.graph.node
    ]
    pictures = [Session(model).run(times).astype(int) for model in (plain, rewritten)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_places_of_a_camera_are_products_on_demand(sample_clip):
    models = SegmentModels(sample_clip)
    plain, products = (build_graph(models, 0, products=wanted) for wanted in (False, True))
    kinds = [Counter(node.op_type for node in graph.graph.node) for graph in (plain, products)]
    assert [kind["MatMul"] for kind in kinds] == [0, 4]  # two for the luma, two for the chroma
    assert kinds[1]["Resize"] == kinds[0]["Resize"] - 2
    found = [Session(graph).run({"t": TIMES}).astype(int) for graph in (plain, products)]
    assert np.abs(found[0] - found[1]).max() <= 1
