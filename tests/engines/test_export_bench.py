import numpy as np
import onnx
import pytest
from helpers import fit_clip
from onnx import TensorProto, helper, numpy_helper

from encoder.common.onnx_runtime import Session
from export.benchmark import DecodeSpeed, measure_speed
from export.engines.registry import open_engine
from export.passes.fp16 import half_precision
from export.roofline import Ceilings, _products, count_work, measure_ceilings

CEILINGS = Ceilings(flop_per_second=1e9, bytes_per_second=1e9, launch_seconds=1e-6)


def graph(nodes, **constants):
    t = helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "test", [t], [y], initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_work_of_a_convolution_and_what_is_computed_with_it():
    nodes = [
        helper.make_node("Reshape", ["t", "shape"], ["picture"]),
        helper.make_node("Mul", ["picture", "map"], ["x"]),  # (N, 4, 8, 8)
        helper.make_node("Conv", ["x", "weights"], ["features"], pads=[1, 1, 1, 1]),  # (N, 6, 8, 8)
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("Sub", ["positive", "one"], ["y"]),
    ]
    constants = {
        "shape": np.array([0, 1, 1, 1]),
        "map": np.ones((1, 4, 8, 8), np.float32),
        "weights": np.ones((6, 4, 3, 3), np.float32),
        "one": np.array(1, np.float32),
    }
    work = count_work(graph(nodes, **constants), times=5)
    assert work.flop == 2 * 5 * 6 * 64 * 4 * 9
    x, features = 5 * 4 * 64, 5 * 6 * 64
    shape, picture, weights = 2 * 4, 4 * 64, 6 * 4 * 9
    # The map is read and x written by one; x and the weights are read and y is written by the other.
    assert work.bytes == 4 * (5 + shape + picture + x + x + weights + 1 + features)
    assert work.launches == 2


def test_work_of_matrix_products():
    nodes = [
        helper.make_node("Unsqueeze", ["t", "axis"], ["column"]),
        helper.make_node("Gemm", ["column", "first", "bias"], ["hidden"]),  # (N, 7)
        helper.make_node("MatMul", ["hidden", "second"], ["y"]),  # (N, 3)
    ]
    constants = {"first": np.ones((1, 7)), "bias": np.ones(7), "second": np.ones((7, 3))}
    model = graph(
        nodes,
        axis=np.array([1]),
        **{name: value.astype(np.float32) for name, value in constants.items()},
    )
    assert count_work(model, times=4).flop == 2 * 4 * (7 + 7 * 3)


def test_half_precision_halves_the_bytes(tiny_clip):
    engine = open_engine(tiny_clip, "onnxruntime-cpu")
    full = engine.graph(0)
    engine.close()
    assert count_work(half_precision(full), 8).bytes < 0.8 * count_work(full, 8).bytes


def test_ceilings_are_those_of_products():
    model = _products(rows=3, inner=5, columns=4, chain=1)
    onnx.checker.check_model(model, full_check=True)
    assert Session(model).run({"t": np.array([2, 3], np.float32)}).tolist() == [
        0,
        0,
    ]  # 2/5 and 3/5, as whole numbers


@pytest.mark.parametrize("name", ["openvino", "onnxruntime-cpu"])
def test_ceilings_are_measured_by_the_engine(tiny_clip, name, monkeypatch):
    monkeypatch.setattr("export.roofline.MEMORY_MATRIX", (64, 128))
    engine = open_engine(tiny_clip, name, batch=1)
    engine.wait_idle()  # its second segment is loaded in the background
    steps = iter(
        [0.001, 0.01, 0.031, 0.201, 0.065]
    )  # a small one, two of squares, a long row, a chain
    now, step = [0.0], [0.0]
    load = engine.load

    def begin(model):
        step[0] = next(steps)
        return load(model)

    def clock():
        now[0] += step[0]
        return now[0]

    engine.load = begin
    ceilings = measure_ceilings(engine, clock=clock)
    engine.close()
    assert ceilings.flop_per_second == pytest.approx(2 * 1024**3 / 0.03)
    assert ceilings.bytes_per_second == pytest.approx(4 * 64 * 128 / 0.2)
    assert ceilings.launch_seconds == pytest.approx(0.001)


def test_bench_counts_frames_per_second(tiny_clip):
    engine = open_engine(tiny_clip, "onnxruntime-cpu", batch=4)
    decoded, shares = [], []
    frames = engine.frames
    engine.frames = lambda times: decoded.append(times.tolist()) or frames(times)
    clock = iter(np.arange(0, 1000, 0.25))
    speed = measure_speed(engine, CEILINGS, report=shares.append, clock=lambda: float(next(clock)))
    engine.close()
    assert (speed.engine, speed.precision, speed.batch) == ("onnxruntime-cpu", "fp32", 4)
    assert speed.decode_fps == speed.fps == 4 / 0.25
    assert speed.realtime == 16 / 25
    assert speed.p50_ms == speed.p95_ms == 250
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert decoded[:4] == [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5], [0, 1, 2, 3]]


def test_bench_of_a_first_segment_shorter_than_a_batch():
    clip = fit_clip("fast", frames=4, height=16, width=16, segment_frames=2)
    engine = open_engine(clip, "onnxruntime-cpu", batch=8)
    clock = iter(np.arange(0, 1000, 0.5))
    speed = measure_speed(engine, CEILINGS, report=lambda _: None, clock=lambda: float(next(clock)))
    engine.close()
    assert speed.fps == 16


def speed(**times):
    parts = {"arithmetic_ms": 1.0, "memory_ms": 1.0, "launches_ms": 1.0, "copy_ms": 1.0} | times
    rates = {"decode_fps": 100.0, "fps": 100.0, "realtime": 4.0, "p50_ms": 10.0, "p95_ms": 10.0}
    work = {"gflop": 1.0, "megabytes": 1.0, "peak_gflops": 1.0, "peak_gbytes": 1.0}
    return DecodeSpeed(engine="test", precision="fp32", batch=1, **rates, **work, **parts)


@pytest.mark.parametrize("name", ["arithmetic", "memory", "launches", "copy"])
def test_what_takes_longest_bounds(name):
    assert speed(**{f"{name}_ms": 2.0}).bound == name


def test_floor_is_arithmetic_or_memory():
    found = speed(memory_ms=4.0, copy_ms=8.0)
    assert found.floor_ms == 4.0
    assert found.share == pytest.approx(0.4)
