"""Entropy coding of integer codes: a range coder (constriction) under a Laplace model for each tensor.

The model's probabilities are made by IEEE 754 multiplications and square roots alone, which give the same bits on every
machine; exp and log do not.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]
from numpy.typing import NDArray

from encoder.codec.errors import BitstreamError

DECAY_UNIT = 1 << 16
"""A decay is coded as a number of 1 / DECAY_UNIT, 1 .. DECAY_UNIT - 1."""
MIN_PROBABILITY = 2.0**-23
"""Floor of a symbol's probability: the coder works in units of 2**-24."""

Codes = NDArray[np.int32]


def laplace_probabilities(decay: int, bound: int) -> NDArray[np.float64]:
    """Return the probabilities of -bound .. bound under a Laplace distribution binned at integers.

    With theta = decay / DECAY_UNIT, which is exp(-1 / scale): P(0) = 1 - sqrt(theta) and
    P(k) = theta**|k| * (1 / sqrt(theta) - sqrt(theta)) / 2.
    """
    theta = decay / DECAY_UNIT
    root = np.sqrt(theta)
    powers = np.multiply.accumulate(np.full(bound, theta))
    tail = powers * ((1 / root - root) / 2)
    return np.maximum(np.concatenate([tail[::-1], [1 - root], tail]), MIN_PROBABILITY)


def best_decay(codes: Codes) -> int:
    """Return the decay whose model gives the shortest code."""
    theta = np.arange(1, DECAY_UNIT) / DECAY_UNIT
    zeros, magnitude = np.count_nonzero(codes == 0), np.abs(codes.astype(np.int64)).sum()
    root = np.sqrt(theta)
    bits = zeros * np.log2(1 - root) + (codes.size - zeros) * np.log2((1 / root - root) / 2)
    return int(np.argmax(bits + magnitude * np.log2(theta))) + 1


def encode(tensors: Iterable[tuple[Codes, int, int]]) -> bytes:
    """Return the code of tensors one after the other, each with its decay and bound, as little-endian 32-bit words."""
    coder = stream.queue.RangeEncoder()
    for codes, decay, bound in tensors:
        coder.encode((codes + bound).ravel().astype(np.int32), _model(decay, bound))
    return coder.get_compressed().astype("<u4").tobytes()


def decode(data: bytes, tensors: Sequence[tuple[int, int, int]]) -> list[Codes]:
    """Return the codes of tensors, each given by its number of elements, decay and bound.

    Raises BitstreamError for data that is no code.
    """
    coder = stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
    try:
        return [coder.decode(_model(decay, bound), size) - bound for size, decay, bound in tensors]
    except (AssertionError, ValueError) as error:
        raise BitstreamError(f"weights cannot be decoded: {error}") from None


def _model(decay: int, bound: int) -> Any:
    return stream.model.Categorical(laplace_probabilities(decay, bound), perfect=False)
