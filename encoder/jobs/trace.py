"""Turn a torch network into a clip's topology: its ONNX graph, with the parameters as inputs."""

import logging
import warnings
from collections.abc import Callable
from functools import lru_cache

import onnx
import torch
from torch import Tensor, nn
from torch.func import functional_call

from encoder.codec.graph_names import FRAMES, TIME
from encoder.codec.topology import Topology
from encoder.config import SizeName
from encoder.models.base import PlainNetwork, VideoNetwork, VideoShape

OPSET = 20
"""First ONNX opset with Gelu as one operator."""
IR_VERSION = 10


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
def topology_of(
    make: Callable[[VideoShape, SizeName], nn.Module], shape: VideoShape, size: SizeName
) -> Topology:
    """Return the topology of a preset's network, cached because comparisons reuse it."""
    network = make(shape, size)
    return trace(network if isinstance(network, VideoNetwork) else PlainNetwork(network))


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
