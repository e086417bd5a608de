import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from fake_tensorrt import FakeCuda
from helpers import fit_clip

from encoder.codec.clip import SegmentModels
from encoder.codec.coder import HUFFMAN
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.errors import BitstreamError, EngineError, SettingsError
from encoder.common.onnx_runtime import Session
from encoder.presets import PRESETS
from export.engines.base import Engine, Network
from export.engines.ort import OnnxRuntimeCpu, OnnxRuntimeCuda, has_cuda
from export.engines.ov import OpenVino
from export.engines.registry import open_engine
from export.engines.trt import TensorRt
from export.graph import OUTPUT, build_graph

HERE = ["openvino", "onnxruntime-cpu"]


@pytest.fixture
def engine(request, tiny_clip):
    engine = open_engine(tiny_clip, request.param, batch=2, pixels="rgb")
    yield engine
    engine.close()


@pytest.mark.parametrize("engine", HERE, indirect=True)
def test_engine_matches_the_reference_decoder(engine, tiny_clip):
    # Across both segments, in no order, between frames, and not a multiple of the batch.
    times = np.array([0, 1, 2, 3, 4, 5, 1.5, 5, 0])
    frames = engine.frames(times)
    expected = np.stack([ReferenceDecoder(tiny_clip).frame(time) for time in times])
    assert frames.dtype == np.uint8
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("preset", PRESETS)
def test_openvino_makes_the_frames_of_every_network(preset):
    """Of a segment long enough for the times' encodings to have large phases, in which single precision has few digits."""
    clip = fit_clip(preset, frames=120, height=32, width=48, segment_frames=120)
    engine = open_engine(clip, "openvino", batch=4, pixels="rgb")
    times = np.array([0, 1, 2, 59, 60, 118, 119])
    frames = engine.frames(times)
    engine.close()
    expected = np.stack([ReferenceDecoder(clip).frame(time) for time in times])
    assert np.abs(frames.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("engine", HERE, indirect=True)
def test_frames_are_not_overwritten_by_the_next_batch(engine):
    first = engine.frames(np.array([0.0, 1.0]))
    copy = first.copy()
    engine.frames(np.array([4.0, 5.0]))
    assert np.array_equal(first, copy)


@pytest.mark.parametrize("name", HERE)
def test_engines_agree_on_i420(sample_clip, name):
    engine = open_engine(sample_clip, name)
    reference = open_engine(sample_clip, "onnxruntime-cpu")
    times = np.arange(10.0)
    difference = np.abs(engine.frames(times).astype(int) - reference.frames(times))
    engine.close()
    reference.close()
    assert difference.max() <= 1


def test_picture_stays_where_a_segment_cannot_be_decoded(tiny_clip, caplog):
    first, second = tiny_clip.segments
    broken = replace(tiny_clip, segments=(first, replace(second, coder=HUFFMAN, code=b"\xff")))
    engine = OnnxRuntimeCpu(broken, pixels="rgb")
    frames = engine.frames(np.array([2.0, 3.0, 4.0, 1.0]))
    assert np.array_equal(frames[1:3], frames[[0, 0]])
    assert np.array_equal(frames[3], engine.frames(np.array([1.0]))[0])
    engine.frames(np.array([5.0]))
    engine.close()
    assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1
    assert "segment at frame 3 is left out: weights cannot be unpacked" in caplog.text


@pytest.mark.parametrize(("pixels", "colour"), [("rgb", {0}), ("i420", {16, 128})])
def test_picture_is_black_before_the_first_that_can_be_decoded(tiny_clip, pixels, colour):
    first, second = tiny_clip.segments
    broken = replace(first, coder=HUFFMAN, code=b"\xff")
    engine = open_engine(replace(tiny_clip, segments=(broken, second)), pixels=pixels)
    frames = engine.frames(np.array([0.0, 1.0, 4.0]))
    engine.close()
    assert frames.shape[0] == 3
    assert set(np.unique(frames[:2])) == colour
    assert len(np.unique(frames[2])) > 20


def test_clip_of_which_nothing_can_be_shown(tiny_clip):
    broken = [replace(segment, coder=HUFFMAN, code=b"\xff") for segment in tiny_clip.segments]
    with pytest.raises(BitstreamError, match="weights cannot be unpacked"):
        open_engine(replace(tiny_clip, segments=tuple(broken)))


def test_batches_are_no_larger_than_their_memory_may_be(tiny_clip, monkeypatch, caplog):
    monkeypatch.setattr("export.engines.base.MAX_VALUES", 5 * tiny_clip.topology.peak_values // 2)
    engine = OnnxRuntimeCpu(tiny_clip, batch=8)
    assert engine.batch == 2
    assert "batches have 2 frames instead of 8" in caplog.text
    assert len(engine.frames(np.arange(6.0))) == 6
    engine.close()


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(("batch", "split"), [(1, (1, 1)), (4, (2, 2)), (5, (3, 2)), (8, (3, 3))])
def test_batch_is_split_among_streams(tiny_clip, monkeypatch, name, batch, split):
    for module in ("ort", "ov"):
        monkeypatch.setattr(f"export.engines.{module}.core_count", lambda: 3)
    engine = open_engine(tiny_clip, name, batch=batch, pixels="rgb")
    assert (engine.streams, engine.micro_batch) == split
    times = np.array([0, 1, 2, 0, 1, 2, 1, 0, 1.5, 4, 3, 5, 2])
    frames = engine.frames(times)
    engine.close()
    expected = np.stack([ReferenceDecoder(tiny_clip).frame(time) for time in times])
    assert np.abs(frames.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("wanted", "precision"), [(0.0, "bf16"), (101.0, "fp32")])
def test_bfloat16_is_taken_where_the_cpu_has_it_and_the_picture_holds(
    tiny_clip, monkeypatch, wanted, precision
):
    monkeypatch.setattr("export.engines.ov.BF16_PSNR_DB", wanted)
    monkeypatch.setattr("export.engines.ov.OpenVino._has_bf16", lambda _: True)
    engine = open_engine(tiny_clip, "openvino", batch=2, pixels="rgb")
    assert engine.precision == precision
    frames = engine.frames(np.arange(6.0))
    engine.close()
    assert engine.precision == precision
    expected = np.stack(list(ReferenceDecoder(tiny_clip).frames()))
    assert np.abs(frames.astype(int) - expected).max() <= (1 if precision == "fp32" else 8)


class Noted(Network):
    """A network without any pictures, which notes what is asked of it."""

    def __init__(self, notes, number):
        self._notes, self._number = notes, number

    def start(self, stream, times):
        self._notes.append(("start", self._number, stream, len(times)))

    def wait(self, stream):
        pass

    def fetch(self, stream, frames):
        self._notes.append(("fetch", self._number, stream, len(frames)))
        frames[:] = self._number

    def close(self):
        self._notes.append(("close", self._number))


class Noting(Engine):
    """An engine of two streams whose networks are numbered as they are loaded."""

    name = "noting"

    def __init__(self, clip, **options):
        super().__init__(clip, max_streams=2, **options)
        self.notes, self.count = [], 0

    def load(self, _model):
        self.count += 1
        return Noted(self.notes, self.count)


def test_one_lane_is_fetched_while_the_other_works(tiny_clip):
    engine = Noting(tiny_clip, batch=2)
    frames = engine.frames(np.array([0.0, 1, 2, 3, 4]))
    engine.close()
    assert [note for note in engine.notes if note[0] != "close"] == [
        ("start", 1, 0, 1),
        ("start", 1, 1, 1),
        ("fetch", 1, 0, 1),
        ("start", 1, 0, 1),
        # All of a segment is fetched before the next one's network is asked for.
        ("fetch", 1, 1, 1),
        ("fetch", 1, 0, 1),
        ("start", 2, 1, 1),
        ("start", 2, 0, 1),
        ("fetch", 2, 1, 1),
        ("fetch", 2, 0, 1),
    ]
    assert frames[:, 0, 0].tolist() == [1, 1, 1, 2, 2]


def test_lanes_are_free_after_an_error(tiny_clip):
    engine = Noting(tiny_clip, batch=2)
    engine.frames(np.zeros(1))
    network, waited = engine.network(0), []

    def fail(_lane, _frames):
        raise EngineError("no")

    fetch, network.fetch, network.wait = network.fetch, fail, waited.append
    with pytest.raises(EngineError, match="no"):
        engine.frames(np.array([0.0, 1.0, 2.0]))
    assert waited == [1]
    network.fetch = fetch
    assert len(engine.frames(np.array([0.0, 1.0]))) == 2
    engine.close()


def test_no_times_and_then_a_segment_that_is_lost(tiny_clip):
    first, second = tiny_clip.segments
    engine = OnnxRuntimeCpu(
        replace(tiny_clip, segments=(first, replace(second, coder=HUFFMAN, code=b"\xff")))
    )
    assert engine.frames(np.array([])).shape == (0, 30, 26)
    assert engine.frames(np.array([4.0])).shape == (1, 30, 26)
    engine.close()


def test_last_picture_is_not_the_callers(tiny_clip):
    first, second = tiny_clip.segments
    engine = OnnxRuntimeCpu(
        replace(tiny_clip, segments=(first, replace(second, coder=HUFFMAN, code=b"\xff")))
    )
    frames = engine.frames(np.array([2.0]))
    shown = frames.copy()
    frames[:] = 0
    assert np.array_equal(engine.frames(np.array([4.0])), shown)
    engine.close()


class BoundCpu(OnnxRuntimeCuda):
    """The engine for CUDA on a CPU, whose buffers are the host's."""

    provider, device, pins = "CPUExecutionProvider", "cpu", False


def test_bound_session_decodes(tiny_clip, monkeypatch):
    monkeypatch.setattr("export.engines.ort.has_cuda", lambda: True)
    engine = BoundCpu(tiny_clip, batch=4, pixels="rgb")
    times = np.array([0, 1, 2, 3, 4, 5, 1.5, 5, 0])
    frames = engine.frames(times)
    engine.close()
    expected = np.stack([ReferenceDecoder(tiny_clip).frame(time) for time in times])
    assert np.abs(frames.astype(int) - expected).max() <= 1


def test_bound_session_copies_through_pinned_memory(tiny_clip, monkeypatch):
    monkeypatch.setattr("export.engines.ort.has_cuda", lambda: True)
    times = np.array([0, 1, 2, 3, 4, 5, 1.5])
    with BoundCpu(tiny_clip, batch=4) as plain:
        expected = plain.frames(times)
    runtime = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
    copied, threads = [], set()

    class Bound(BoundCpu):
        pins = True

        def load(self, model):
            network = super().load(model)
            place = network._session.address(OUTPUT)
            runtime.live[place] = "output"  # the stand-in for the GPU knows only what it gave out
            return network

    def copy(target, source, size, kind, stream):
        copied.append(size)
        threads.add(threading.current_thread().name)
        return FakeCuda.cudaMemcpyAsync(runtime, target, source, size, kind, stream)

    monkeypatch.setattr(runtime, "cudaMemcpyAsync", copy)
    with Bound(tiny_clip, batch=4) as engine:
        assert np.array_equal(engine.frames(times), expected)
    assert sum(copied) == expected.size
    assert threads == {"cuda_0"}  # a copy by another thread would spoil what this one records
    assert set(runtime.live.values()) == {"output"}


def test_session_goes_on_without_a_cuda_graph(tiny_clip, monkeypatch):
    monkeypatch.setattr("export.engines.ort.has_cuda", lambda: True)
    opened = []

    def open_session(model, _provider, settings):
        opened.append(dict(settings))
        if "enable_cuda_graph" in settings:
            raise EngineError("not all on the GPU")
        return Session(model)

    monkeypatch.setattr("export.engines.ort.Session", open_session)
    engine = BoundCpu(tiny_clip, batch=4, pixels="rgb")
    assert engine.frames(np.zeros(2)).shape == (2, 3, 19, 26)
    engine.close()
    assert opened[:2] == [{"enable_cuda_graph": "1"}, {}]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_places_of_a_camera_are_no_products_but_for_openvino(sample_clip, precision):
    """GPUs may round products to TF32, with 10 bits for a place on a canvas of 1,000 pixels."""
    graph = build_graph(SegmentModels(sample_clip), 0, precision=precision).graph
    assert {"GridSample", "Resize"} <= {node.op_type for node in graph.node}
    assert "MatMul" not in {node.op_type for node in graph.node}
    kinds = (TensorRt, OnnxRuntimeCuda, OpenVino, OnnxRuntimeCpu)
    assert [kind for kind in kinds if kind.products] == [OpenVino]


def test_network_that_is_not_needed_any_more_is_closed():
    clip = fit_clip("fast", frames=3, height=16, width=16, segment_frames=1)
    engine = Noting(clip, batch=2)
    engine.frames(np.array([0.0, 1.0]))
    engine.network(2)
    closed = [note[1] for note in engine.notes if note[0] == "close"]
    engine.close()
    assert closed[0] == 1
    assert sorted(note[1] for note in engine.notes if note[0] == "close") == list(
        range(1, engine.count + 1)
    )


def test_next_segment_is_loaded_ahead(tiny_clip):
    engine = OnnxRuntimeCpu(tiny_clip)
    loaded = []
    load = engine.load
    engine.load = lambda model: loaded.append(model) or load(model)
    engine.frames(np.zeros(1))
    engine.close()
    assert len(loaded) == 2


@pytest.mark.skipif(has_cuda(), reason="there is a GPU")
def test_cuda_without_its_libraries_does_not_run_on_the_cpu_unnoticed(tiny_clip, monkeypatch):
    monkeypatch.setattr("export.engines.ort.has_cuda", lambda: True)
    engine = OnnxRuntimeCuda(tiny_clip)
    with pytest.raises(EngineError, match="ONNX Runtime cannot load"):
        engine.warm_up()
    engine.close()


@pytest.mark.parametrize("batch", [0, -1, 257])
def test_batch_out_of_range(tiny_clip, batch):
    with pytest.raises(SettingsError, match=rf"batch must be in 1\.\.256, got {batch}"):
        open_engine(tiny_clip, batch=batch)


@pytest.mark.skipif(has_cuda(), reason="there is a GPU")
def test_no_gpu(tiny_clip):
    with pytest.raises(EngineError, match="no CUDA device"):
        open_engine(tiny_clip, "onnxruntime-cuda")
