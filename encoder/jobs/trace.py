"""Turn a torch network into a clip's topology: its ONNX graph, with the parameters as inputs."""

import logging
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.func import functional_call

from encoder.codec.container import VERSION
from encoder.codec.graph_names import FRAMES, TIME
from encoder.codec.topology import Topology
from encoder.common.cache import cache_folder, evict, keep, kept
from encoder.common.errors import BitstreamError
from encoder.config import SizeName
from encoder.models.base import PlainNetwork, VideoNetwork, VideoShape
from encoder.presets import OWN_NETWORKS

OPSET = 20
"""First ONNX opset with Gelu as one operator."""
IR_VERSION = 10
CODEC = (
    "container.py",
    f"dictionary{VERSION}.bin",
    "graph_limits.py",
    "graph_names.py",
    "topology.py",
)
"""Files that decide on the packed form of a topology."""
MAX_KEPT = 64
"""Largest number of topologies that are kept."""

Network = Callable[[VideoShape, SizeName], nn.Module]
"""Factory of a segment's network."""


def trace(network: nn.Module) -> Topology:
    """Return the topology of a network that maps times (N,) to frames (N, 3, H, W).

    Its coded tensors are the network's parameters, in their order, named "0", "1", ...
    """
    parameters = {name: value.detach().cpu() for name, value in network.named_parameters()}
    names = [TIME, *(str(index) for index in range(len(parameters)))]
    with warnings.catch_warnings():
        # torch's exporter uses deprecated functions of torch.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # At lower levels, it reports that torchvision is absent.
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Stateless(network, tuple(parameters)).eval(),
            (torch.zeros(2), *parameters.values()),
            input_names=names,
            output_names=[FRAMES],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC}, (None,) * len(parameters)),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is None only for torch's older exporter
    model = program.model_proto
    _strip(model)
    return Topology.check(model)


@lru_cache(maxsize=8)
def topology_of(make: Network, shape: VideoShape, size: SizeName) -> Topology:
    """Return the topology of a network.

    Tracing takes seconds, so the topologies of presets are kept on this machine.
    """
    path = _kept_path(make, shape, size)
    if path is not None and (packed := kept(path)) is not None:
        with suppress(BitstreamError):  # a damaged file: it is made anew
            return Topology.parse(packed)
    network = make(shape, size)
    topology = trace(network if isinstance(network, VideoNetwork) else PlainNetwork(network))
    if path is not None:
        keep(path, topology.packed)
        evict(path.parent, "*", MAX_KEPT)
    return topology


def _kept_path(make: Network, shape: VideoShape, size: SizeName) -> Path | None:
    """Return the file of a kept topology; None for a network that is not of this package.

    Its name depends on all code that decides on the topology.
    """
    name = OWN_NETWORKS.get(make)
    if name is None:
        return None
    versions = [torch.__version__, *map(version, ("onnx", "onnx-ir", "onnxscript"))]
    key = sha256(f"{name} {size} {shape} {versions} {_code()}".encode()).hexdigest()
    return cache_folder() / "topologies" / key


@cache
def _code() -> str:
    """Return a hash of the modules that make, trace and pack networks."""
    package = Path(__file__).parents[1]
    codec = [package / "codec" / name for name in CODEC]
    paths = [*(package / "models").glob("*.py"), *codec, package / "presets.py", Path(__file__)]
    return sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()


class _Stateless(nn.Module):
    """A network with parameters as arguments, so that the exporter neither folds nor drops any."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self._call = lambda t, parameters: functional_call(
            network, dict(zip(names, parameters, strict=True)), (t,)
        )

    def forward(self, t: Tensor, *parameters: Tensor) -> Tensor:
        return self._call(t, parameters)


def _strip(model: onnx.ModelProto) -> None:
    """Remove documentation, names of nodes and inferred shapes, which a decoder does not need."""
    model.ir_version = IR_VERSION
    for field in ("producer_name", "producer_version", "doc_string", "metadata_props"):
        model.ClearField(field)
    graph = model.graph
    for field in ("doc_string", "metadata_props", "value_info"):
        graph.ClearField(field)
    graph.name = "g"
    for value in (*graph.input, *graph.output):
        value.ClearField("metadata_props")
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for node in graph.node:
        for field in ("name", "doc_string", "metadata_props"):
            node.ClearField(field)
    for constant in graph.initializer:
        constant.ClearField("doc_string")
        constant.ClearField("metadata_props")
