"""Import of HNeRV's published checkpoint, a network and feature maps in 8 bits, as a clip."""

import re
import struct
import warnings
from collections.abc import Mapping
from fractions import Fraction
from math import isqrt
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from encoder.codec.clip import Clip
from encoder.codec.container import MAX_SIDE, Header
from encoder.codec.segment import Segment
from encoder.codec.topology import MAX_WEIGHTS
from encoder.common.errors import BitstreamError, SourceError
from encoder.jobs.trace import trace
from encoder.models.hnerv import Hnerv, HnervConfig
from encoder.models.sizing import Layout
from encoder.training.ptq import quantize

BITS = 10
"""Bits of a weight in the clip.

The authors' 8-bit grid has an offset. Ours has none, so more bits are needed to come close to it.
"""
STAGE = re.compile(r"decoder\.(\d+)\..*")
"""Pattern of the authors' names of the stem, number 0, and of the stages."""
HEAD = "head_layer"
BROKEN = (
    UnpicklingError,
    struct.error,
    EOFError,
    RuntimeError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    BitstreamError,
)
"""Exceptions that mean "not an HNeRV checkpoint"."""


def read_hnerv(path: Path, *, rate: Fraction, settings: str) -> Clip:
    """Return the clip of a checkpoint, with a frame rate and the record of its settings.

    Raises SourceError for a file that is not such a checkpoint.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about some files
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        latents = _dequantised(checkpoint["embed"])
        weights = {name: _dequantised(entry) for name, entry in checkpoint["model"].items()}
        return _clip(latents, _network(latents, weights), rate, settings)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from None
    except BROKEN:
        raise SourceError(f"{path} is no quantized checkpoint of HNeRV") from None


def _clip(latents: Tensor, network: Hnerv, rate: Fraction, settings: str) -> Clip:
    topology = trace(network)
    height, width = topology.frame_shape
    header = Header(
        width=width,
        height=height,
        frames=len(latents),
        rate=rate,
        continuous=True,
        settings=settings,
    )
    tensors = quantize(dict(network.named_parameters()), None, BITS)
    named = dict(zip(topology.tensors, tensors.values(), strict=True))
    segment = Segment.encode(0, len(latents), named, topology.tensors)
    return Clip(Header.parse(bytes(header)), topology, (segment,))


def _dequantised(entry: Mapping[str, Any]) -> Tensor:
    """Return a dequantized tensor of the checkpoint; raises ValueError for a malicious one."""
    integers = entry["quant"]
    low = entry["min"]
    scale = entry["scale"]
    # Checked before any arithmetic: a small file may hold one number expanded to billions.
    if integers.dtype != torch.uint8 or integers.numel() > MAX_WEIGHTS:
        raise ValueError("not 8-bit integers, or too many")
    if not all(
        torch.broadcast_shapes(x.shape, integers.shape) == integers.shape for x in (low, scale)
    ):
        raise ValueError("the ranges are of another shape")
    values = low.float() + scale.float() * integers
    if not values.isfinite().all():
        raise ValueError("weights that are no numbers")
    return values


def _network(latents: Tensor, weights: Mapping[str, Tensor]) -> Hnerv:
    """Return the network with feature maps (T, C, h, w) and weights by their authors' names.

    The strides follow from the shapes: a stage's convolution makes stride**2 times the input
    channels of the next one. Stems that upsample, which the authors' smaller grids need, are not
    supported.

    Raises ValueError for frames that are too large, or weights that do not fit together.
    """
    convolutions = {
        name.removesuffix(".weight"): x for name, x in weights.items() if name.endswith(".weight")
    }
    numbered = {
        int(found[1]): name for name in convolutions if (found := STAGE.fullmatch(f"{name}."))
    }
    names = [*(numbered[index] for index in range(len(numbered))), HEAD]
    stem, *stages, head = [convolutions[name] for name in names]
    channels = [stem.shape[0], *(x.shape[1] for x in (*stages[1:], head))]
    strides = [
        isqrt(stage.shape[0] // after) for stage, after in zip(stages, channels[1:], strict=True)
    ]
    layout = Layout(strides=tuple(strides), grid=(latents.shape[2], latents.shape[3]))
    if max(layout.canvas) > MAX_SIDE:
        raise ValueError("frames are too large")
    network = Hnerv(
        HnervConfig(
            frames=len(latents),
            layout=layout,
            kernels=tuple(stage.shape[-1] for stage in stages),
            channels=tuple(channels),
        )
    )
    ours = ["stem", *(f"blocks.{index}.conv" for index in range(len(stages))), "head"]
    state = {
        f"{our}.{kind}": weights[f"{their}.{kind}"]
        for our, their in zip(ours, names, strict=True)
        for kind in ("weight", "bias")
    }
    network.load_state_dict(state | {"latents.0.values": latents})
    return network
