"""Read the checkpoint that HNeRV's authors published: a network and its feature maps in 8-bit integers, as a clip."""

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
"""Bits of a weight in the clip: the authors' 8 have an offset, so that ours, which have none, lie elsewhere."""
STAGE = re.compile(r"decoder\.(\d+)\..*")
"""The authors' names of the stem, which is number 0, and of the stages."""
HEAD = "head_layer"
BROKEN = (
    UnpicklingError, struct.error, EOFError, RuntimeError, LookupError, AttributeError, TypeError, ValueError, ArithmeticError,
    RecursionError, MemoryError, BitstreamError,
)  # fmt: skip
"""What a file makes torch, or us, raise which is no such checkpoint."""


def read_hnerv(path: Path, *, rate: Fraction, settings: str) -> Clip:
    """Return the clip of a checkpoint, whose frames are shown at a rate; raises SourceError for what is no such checkpoint."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says of some files what it thinks of them
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        latents = _dequantised(checkpoint["embed"])
        weights = {name: _dequantised(entry) for name, entry in checkpoint["model"].items()}
        return _clip(latents, _network(latents, weights), rate, settings)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from None
    except BROKEN:
        raise SourceError(f"{path} is no quantised checkpoint of HNeRV") from None


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
    """Return a tensor of the checkpoint; raises ValueError for one that a stranger made to do harm."""
    integers = entry["quant"]
    low = entry["min"]
    scale = entry["scale"]
    # Before any arithmetic: a small file may hold a view of one number as billions.
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
    """Return the network of feature maps (T, C, h, w) and of weights by their authors' names; raises ValueError.

    The strides follow from the shapes: a stage's convolution makes stride**2 times the channels that the next one takes. Stems
    that make several cells of one, which the authors' smaller grids would need, are none of ours.
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
