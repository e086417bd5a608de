"""Quantization of a fitted network's tensors to the integers that are coded (PTQ)."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from encoder.codec.coder import HUFFMAN_BOUND
from encoder.codec.entropy import MAX_BOUND, Integers
from encoder.codec.segment import Quantized
from encoder.codec.tensor_header import MAX_OFFSET, NOTHING, ZERO, channel_steps
from encoder.models.base import GIVEN_STEP
from encoder.training.qat import QatQuantizer

SMALLEST = 2.0**-40
"""Lower bound of a tensor's largest weight, so that the format can hold the step."""


def quantize(
    tensors: Mapping[str, Tensor],
    quantizer: QatQuantizer | None,
    bits: int,
    *,
    before: Mapping[str, Tensor] | None = None,
    given: Collection[str] = (),
    huffman: bool = False,
) -> dict[str, Quantized]:
    """Return the integers of each tensor and their step, by name.

    The step is the quantizer's learned one, or without a quantizer that of a number of `bits`.
    `before` holds the tensors of the previous segment. A tensor is coded as its difference from
    them if the quantizer has decided so, or, without a quantizer, if that makes its integers
    smaller. `given` tensors, which are not learned, are coded alone with a fixed step.
    """
    bound = 2 ** (bits - 1) - 1
    old = before or {}
    quantized: dict[str, Quantized] = {}
    for name, value in tensors.items():
        learned = quantizer.learned(name) if quantizer else None
        if quantizer and learned:
            step, offsets = learned
            is_difference = name in (quantizer.differences or ())
            change = value - old[name] if is_difference else value
            coded = _quantize(change, step, MAX_BOUND, offsets, quantizer.channel_axis(name))
            quantized[name] = replace(coded, delta=is_difference)
        elif name in given:
            quantized[name] = _quantize(value, GIVEN_STEP, HUFFMAN_BOUND if huffman else MAX_BOUND)
        else:
            quantized[name] = _smaller(value, old.get(name), bound)
    return quantized


def _smaller(value: Tensor, old: Tensor | None, bound: int) -> Quantized:
    """Return a tensor's integers, or those of its difference from `old` if these are smaller.

    Both have the same step.
    """
    alone = _quantize(value, 0.0, bound)
    if old is None:
        return alone
    change = replace(_quantize(value - old, alone.step, bound), delta=True)
    is_smaller = np.abs(change.integers).sum() < np.abs(alone.integers).sum()
    return change if is_smaller and change.step == alone.step else alone


def _quantize(
    tensor: Tensor, step: float, bound: int, offsets: Integers = ZERO, axis: int = 0
) -> Quantized:
    """Round a tensor to multiples of its channels' steps.

    The steps grow if the integers would exceed the bound.
    """
    values = tensor.detach().cpu().numpy()
    shift = int(np.median(offsets))
    if np.ptp(offsets):
        shift -= shift % 2  # a factor of 2 leaves the step as short as it is
    offsets = (offsets - shift).clip(-MAX_OFFSET, MAX_OFFSET)
    relative = channel_steps(1.0, offsets, axis, values.ndim)
    largest = max(float(np.abs(values / relative).max()), SMALLEST)
    step = float(np.float32(max(step * 2 ** (shift / 2), largest / bound)))
    integers = np.rint(values / (np.float32(step) * relative)).clip(-bound, bound).astype(np.int32)
    return Quantized(
        integers=integers,
        step=step,
        channels=offsets if offsets.any() else NOTHING,
        channel_axis=axis,
    )
