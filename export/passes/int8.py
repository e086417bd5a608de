"""Post-training quantization (PTQ) of convolutions to 8-bit integers, as QDQ nodes.

OpenVINO and ONNX Runtime take activations of 0..255 with an offset. TensorRT supports neither
offsets nor integer biases.

All inputs of the network are known, so every frame is used to calibrate activations. Convolutions
are sorted by their loss of quality relative to their arithmetic. They are quantized in this order
as long as the loss against the source stays under a limit.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from encoder.codec.graph_limits import multiplications
from encoder.codec.graph_names import CONSTANT, TIME
from encoder.common.onnx_runtime import Session
from encoder.media.metrics import psnr_db
from export.passes.onnx_utils import shapes_of

MAX_LOSS_DB = 0.1
"""Loss of PSNR against the source that integers must stay below."""
TRIAL_FRAMES = 8
"""Number of frames, evenly spread, with which the loss of a convolution is measured."""
BATCH = 4
"""Number of frames that are decoded at once while calibrating and measuring."""

OF_TOPOLOGY = re.compile(rf"{CONSTANT}\d+")
"""Names of constants that are not coded tensors."""


@dataclass(frozen=True, kw_only=True)
class Integers:
    """Convolutions of a graph that are computed with integers, and their loss of PSNR."""

    convolutions: tuple[str, ...]
    """Names of the outputs of the convolutions."""
    of: int
    """Number of all convolutions."""
    share: float
    """Share of the chosen convolutions in the arithmetic of all."""
    loss_db: float
    """Mean PSNR of all frames in 32 bits, against the source, minus that with these integers."""
    loss_of_all_db: float
    """The same loss with integers for all convolutions."""


class Int8Calibrator:
    """Calibrator for a segment's graph of RGB pictures and its source frames (T, 3, H, W)."""

    def __init__(
        self,
        rgb: onnx.ModelProto,
        source: NDArray[np.uint8],
        folder: Path,
        *,
        symmetric: bool = False,
    ) -> None:
        """Calibrate with all frames, for TensorRT if `symmetric`; keep the ranges in `folder`."""
        self._symmetric = symmetric
        self._rgb = _named(rgb)
        self._source = source
        self._cache = folder / "ranges.json"
        self._products = _products(rgb)
        self._full = self._psnr(self._rgb, range(len(source)))
        self.apply(self._rgb, list(self._products))  # finds the ranges

    def choose(self, limit_db: float = MAX_LOSS_DB) -> Integers:
        """Return the convolutions whose joint loss stays under a limit."""
        if not self._products:
            return Integers(convolutions=(), of=0, share=0.0, loss_db=0.0, loss_of_all_db=0.0)
        names = list(self._products)
        frames = range(0, len(self._source), -(-len(self._source) // TRIAL_FRAMES))
        losses = {name: self._loss([name], frames) for name in names}
        names.sort(key=lambda name: losses[name] / self._products[name])
        low = 0
        high = len(names)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (
                (middle, high)
                if self._loss(names[:middle], frames) < limit_db
                else (low, middle - 1)
            )
        # A few frames may flatter the result: all frames decide.
        while (loss := self._loss(names[:low], range(len(self._source)))) >= limit_db and low:
            low -= 1
        chosen = tuple(names[:low])
        return Integers(
            convolutions=chosen,
            of=len(names),
            share=sum(self._products[name] for name in chosen) / sum(self._products.values()),
            loss_db=loss,
            loss_of_all_db=self._loss(names, range(len(self._source))),
        )

    def apply(self, model: onnx.ModelProto, convolutions: Sequence[str]) -> onnx.ModelProto:
        """Return a graph of the same network with integers for some convolutions.

        `model` may have any pixel format.
        """
        if not convolutions:
            return model
        with TemporaryDirectory() as folder:
            path = Path(folder) / "quantised.onnx"
            quantize_static(
                _named(model),
                path,
                _Times(len(self._source)),
                activation_type=QuantType.QInt8 if self._symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["Conv"],
                nodes_to_quantize=list(convolutions),
                calibration_cache_path=self._cache,
                extra_options={
                    "ActivationSymmetric": self._symmetric,
                    "QuantizeBias": not self._symmetric,
                },
            )
            made = onnx.load(path)
            del made.metadata_props[:]
            return made

    def _loss(self, convolutions: Sequence[str], frames: range) -> float:
        psnr = self._psnr(self.apply(self._rgb, convolutions), frames)
        return float(np.mean([self._full[frame] - psnr[frame] for frame in frames]))

    def _psnr(self, model: onnx.ModelProto, frames: range) -> Mapping[int, float]:
        session = Session(model)
        found: dict[int, float] = {}
        for start in range(0, len(frames), BATCH):
            part = frames[start : start + BATCH]
            decoded = session.run({TIME: np.array(part, np.float32)})
            found |= {
                frame: psnr_db(picture, self._source[frame])
                for frame, picture in zip(part, decoded, strict=True)
            }
        return found


class _Times(CalibrationDataReader):
    """Reader of all times of a segment."""

    def __init__(self, frames: int) -> None:
        self._batches = self._run(frames)

    def _run(self, frames: int) -> Iterator[dict[str, NDArray[np.float32]]]:
        for start in range(0, frames, BATCH):
            yield {TIME: np.arange(start, min(start + BATCH, frames), dtype=np.float32)}

    def get_next(self) -> dict[str, NDArray[np.float32]]:
        """Return the next inputs, or None after the last ones.

        The annotation of the base class leaves None out.
        """
        return next(self._batches, None)  # pyright: ignore[reportReturnType]


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that is ready to be quantized, with nodes named after their outputs.

    Convolutions are chosen by these names.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for node in named.graph.node:
        node.name = node.output[0]
    # The constants are folded. Without this mark, the library would warn at every call that they
    # may not be.
    named.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    return named


def _products(model: onnx.ModelProto) -> dict[str, int]:
    """Return the multiplications of each convolution for one frame, by the name of its output.

    Convolutions whose weights are constants of the topology are left out. Those of `fast` convert
    colours, and graphs of I420 pictures do not have them.
    """
    shapes = {name: (1, *shape[1:]) for name, shape in shapes_of(model).items()}
    shapes |= {constant.name: tuple(constant.dims) for constant in model.graph.initializer}
    return {
        node.output[0]: multiplications(node, shapes)
        for node in model.graph.node
        if node.op_type == "Conv" and not OF_TOPOLOGY.fullmatch(node.input[1])
    }
