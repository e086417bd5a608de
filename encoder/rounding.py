"""From a fitted network's tensors to the integers that are coded."""

from collections.abc import Collection, Mapping

import numpy as np
from torch import Tensor

from encoder.codec.entropy import MAX_BOUND, Integers
from encoder.codec.segment import HUFFMAN_BOUND, Quantized
from encoder.codec.tensor import MAX_OFFSET, NOTHING, ZERO, channel_steps
from encoder.quantizer import GIVEN_STEP, Quantizer, channel_axis

SMALLEST = 2.0**-40
"""Stands for the largest weight of a tensor of smaller ones, so that its step is one that the format has."""


def quantize(
    tensors: Mapping[str, Tensor], quantizer: Quantizer | None, bits: int, *, given: Collection[str] = (), huffman: bool = False
) -> dict[str, Quantized]:
    """Return the integers of each tensor and their step: the learned one, or that of a number of bits.

    Tensors that are given, not learned, have a step of their own either way.
    """
    bound = 2 ** (bits - 1) - 1
    quantized: dict[str, Quantized] = {}
    for name, value in tensors.items():
        learned = quantizer.learned(name) if quantizer else None
        if learned:
            step, offsets = learned
            quantized[name] = _quantize(value, step, MAX_BOUND, offsets, channel_axis(name))
        elif name in given:
            quantized[name] = _quantize(value, GIVEN_STEP, HUFFMAN_BOUND if huffman else MAX_BOUND)
        else:
            quantized[name] = _quantize(value, 0.0, bound)
    return quantized


def _quantize(tensor: Tensor, step: float, bound: int, offsets: Integers = ZERO, axis: int = 0) -> Quantized:
    """Round a tensor to multiples of the steps of its channels, or of the smallest that keep the integers within a bound."""
    values = tensor.detach().cpu().numpy()
    shift = int(np.median(offsets))  # the offsets that are left are small, and none if all are the same
    offsets = (offsets - shift).clip(-MAX_OFFSET, MAX_OFFSET)
    relative = channel_steps(1.0, offsets, axis, values.ndim)
    largest = max(float(np.abs(values / relative).max()), SMALLEST)
    step = float(np.float32(max(step * 2 ** (shift / 2), largest / bound)))
    integers = np.rint(values / (np.float32(step) * relative)).clip(-bound, bound).astype(np.int32)
    return Quantized(integers=integers, step=step, channels=offsets if offsets.any() else NOTHING, channel_axis=axis)
