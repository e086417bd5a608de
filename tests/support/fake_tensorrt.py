"""Stand-ins for TensorRT and CUDA, whose memory is the host's and whose networks ONNX Runtime runs."""

import ctypes
import functools
import itertools
import types

import numpy as np
import onnx

from encoder.common.onnx_runtime import Session
from export.engines.trt_build import HERE, build_rtx

try:
    import tensorrt_rtx
except ImportError:  # not for this machine
    tensorrt_rtx = None


class FakeCuda(types.ModuleType):
    """The functions of cuda.bindings.runtime that are called: each returns an error code, and a result if it has one."""

    cudaError_t = types.SimpleNamespace(cudaSuccess=0)
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        self.live, self.calls, self.records = {}, [], True
        self._queues, self._recordings = {}, {}
        self._numbers = itertools.count(1)

    def __getattr__(self, name):
        raise AssertionError(f"{name} is not among what is known to be called")

    def do(self, stream, work):
        """Note what is asked of a stream, which is done when somebody waits for it; or what is recorded of it."""
        self._recordings.get(stream, self._queues[stream]).append(work)

    def _own(self, resource):
        number = (
            ctypes.addressof(resource)
            if isinstance(resource, ctypes.Array)
            else next(self._numbers)
        )
        self.live[number] = resource
        return 0, number

    def _free(self, number):
        del self.live[number]
        return (0,)

    def cudaMalloc(self, size):
        return self._own((ctypes.c_uint8 * size)())

    cudaMallocHost = cudaMalloc
    cudaFree = cudaFreeHost = cudaStreamDestroy = cudaGraphDestroy = cudaGraphExecDestroy = _free

    cudaStreamNonBlocking = 1

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == 1
        error, stream = self._own("stream")
        self._queues[stream] = []
        return error, stream

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert {1: target, 2: source}[kind] in self.live
        assert stream in self.live
        self.do(stream, lambda: ctypes.memmove(target, source, size))
        return (0,)

    def cudaStreamSynchronize(self, stream):
        assert stream in self.live
        while self._queues[stream]:
            self._queues[stream].pop(0)()
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert (stream in self.live, mode) == (True, 1)
        if not self.records:
            return (types.SimpleNamespace(name="cudaErrorStreamCaptureUnsupported"),)
        self._recordings[stream] = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        return self._own(self._recordings.pop(stream))

    def cudaGraphInstantiate(self, graph, flags):
        return self._own(self.live[graph])

    def cudaGraphLaunch(self, graph, stream):
        self.calls.append("launch")
        self._queues[stream].extend(self.live[graph])
        return (0,)


class FakeTensorRt:
    """The module: notes what is built, loaded and refitted."""

    __version__ = "11.0"
    NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = types.SimpleNamespace(REFIT="refit", TF32="tf32")

    def __init__(self, cuda):
        self.cuda, self.built, self.loaded, self.refitted, self.set = cuda, [], 0, 0, []
        self.parses = self.builds = self.refits = True
        self.Logger = type("Logger", (), {"WARNING": 2, "__init__": lambda log, severity: None})
        severity = types.SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)
        self.ILogger = type("ILogger", (), {"Severity": severity})

    def Builder(self, log):
        return types.SimpleNamespace(
            create_network=lambda flags: types.SimpleNamespace(
                flags=flags, num_inputs=0, num_outputs=0, get_input=None, get_output=None
            ),
            create_builder_config=lambda: _Config(self),
            create_optimization_profile=lambda: types.SimpleNamespace(
                set_shape=lambda *shape: self.set.append(shape)
            ),
            build_serialized_network=self._build,
        )

    def OnnxParser(self, network, log):
        assert network.flags == 1 << 1

        def parse(data):
            network.data = data
            return self.parses

        problem = types.SimpleNamespace(node_operator=lambda: "Gelu", desc=lambda: "not known")
        return types.SimpleNamespace(parse=parse, get_error=lambda index: problem)

    def _build(self, network, config):
        self.built.append(network.data)
        return network.data if self.builds else None

    def Runtime(self, log):
        return types.SimpleNamespace(deserialize_cuda_engine=self._load)

    def _load(self, plan):
        self.loaded += 1
        return FakeEngine(plan, self.cuda) if plan in self.built else None

    def Refitter(self, engine, log):
        return types.SimpleNamespace(engine=engine, refit_cuda_engine=lambda: self.refits)

    def OnnxParserRefitter(self, refitter, log):
        def refit(data):
            self.refitted += 1
            refitter.engine.take(data)
            return self.refits

        problem = types.SimpleNamespace(desc=lambda: "of another shape")
        return types.SimpleNamespace(
            refit_from_bytes=refit, num_errors=1, get_error=lambda index: problem
        )


@functools.cache
def _built(graph, max_batch):
    model = onnx.ModelProto.FromString(graph)
    return build_rtx(model, max_batch=max_batch, targets=["sm89"])


class FakeRtx:
    """TensorRT for RTX with its own builder, and a stand-in for its runtime, which needs a GPU."""

    def __init__(self, cuda):
        self.cuda, self.graphs, self.compiled = cuda, {}, 0
        self.takes_kernels = self.prepares = True

    def __getattr__(self, name):
        return getattr(tensorrt_rtx, name)

    def build(self, model, *, max_batch, targets):
        """Build for another GPU than that of this machine, which has none."""
        assert targets == [HERE]
        graph = model.SerializeToString()
        plan = _built(graph, max_batch)
        self.graphs[plan.data] = graph
        return plan

    def Runtime(self, log):
        assert isinstance(log, tensorrt_rtx.ILogger)
        return types.SimpleNamespace(deserialize_cuda_engine=self._load)

    def _load(self, plan):
        return FakeRtxEngine(self.graphs[plan], self) if plan in self.graphs else None


class _Config:
    def __init__(self, trt):
        self._trt = trt

    def set_flag(self, flag):
        self._trt.set.append(flag)

    def clear_flag(self, flag):
        self._trt.set.append(f"no {flag}")

    def add_optimization_profile(self, profile):
        pass

    def create_timing_cache(self, known):
        self._trt.set.append(known)
        return types.SimpleNamespace(serialize=lambda: b"timings")

    def set_timing_cache(self, cache, *, ignore_mismatch):
        assert ignore_mismatch
        self._cache = cache

    def get_timing_cache(self):
        return self._cache


class FakeEngine:
    """A graph, whose contexts compute at the addresses that they are given."""

    def __init__(self, data, cuda):
        self.cuda = cuda
        self.take(data)

    def take(self, data):
        """Take weights, of a graph that is otherwise the same."""
        model = onnx.ModelProto.FromString(data)
        self.size = tuple(
            dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[1:]
        )
        self.session = Session(model)

    def get_tensor_shape(self, name):
        assert name == "frames"
        return (-1, *self.size)

    def create_execution_context(self):
        return _Context(self)


class FakeRtxEngine(FakeEngine):
    """An engine whose contexts compile kernels that are not in the cache."""

    def __init__(self, data, rtx):
        super().__init__(data, rtx.cuda)
        self.rtx = rtx

    def create_runtime_config(self):
        config = types.SimpleNamespace(cache=None)
        config.create_runtime_cache = lambda: _Kernels(self.rtx.takes_kernels)
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        return config

    def create_execution_context(self, config):
        eager = tensorrt_rtx.DynamicShapesKernelSpecializationStrategy.EAGER
        assert config.dynamic_shapes_kernel_specialization_strategy == eager
        if not self.rtx.prepares:
            return None
        if not config.cache.data:
            self.rtx.compiled += 1
            config.cache.data = b"kernels"
        return _Context(self)


class _Kernels:
    def __init__(self, takes):
        self.data, self._takes = b"", takes

    def deserialize(self, data):
        if self._takes:
            self.data = data
        return self._takes

    def serialize(self):
        return self.data


class _Context:
    def __init__(self, engine):
        self._engine, self._addresses, self._shape = engine, {}, None

    def set_tensor_address(self, name, address):
        self._addresses[name] = address

    def set_input_shape(self, name, shape):
        assert name == "t"
        self._shape = shape

    def execute_async_v3(self, stream):
        def compute():
            (count,) = self._shape
            times = np.ctypeslib.as_array(
                (ctypes.c_float * count).from_address(self._addresses["t"])
            )
            frames = self._engine.session.run({"t": times.copy()})
            ctypes.memmove(self._addresses["frames"], frames.ctypes.data, frames.nbytes)

        self._engine.cuda.do(stream, compute)
        return True
