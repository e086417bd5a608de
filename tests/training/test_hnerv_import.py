import os
import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from published import checkpoint

from encoder.cli.options import SAMPLE
from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.errors import SourceError
from encoder.importers.hnerv import read_hnerv
from encoder.media.metrics import psnr_db

PUBLISHED = os.environ.get("HNERV_CHECKPOINT")
"""Path of `checkpoints/quant_vid.pth` of HNeRV's authors, which is not part of this repository."""


def by_hand(made, index):
    """Return a frame of a checkpoint, computed from its numbers."""
    values = {
        name: entry["min"] + entry["scale"] * entry["quant"]
        for name, entry in made["model"].items()
    }
    x = (made["embed"]["min"] + made["embed"]["scale"] * made["embed"]["quant"])[index : index + 1]
    names = [name.removesuffix(".weight") for name in values if name.endswith(".weight")]
    for name, stride in zip(names, (1, 3, 2, 1), strict=True):
        weight = values[f"{name}.weight"]
        x = torch.nn.functional.conv2d(
            x, weight, values[f"{name}.bias"], padding=weight.shape[-1] // 2
        )
        x = torch.nn.functional.pixel_shuffle(x, stride)
        x = torch.tanh(x) / 2 + 0.5 if name == "head_layer" else torch.nn.functional.gelu(x)
    return (255 * x[0]).round().numpy()


def test_frames_are_those_of_the_checkpoint(tmp_path):
    made = checkpoint()
    torch.save(made, tmp_path / "quant_vid.pth")
    clip = read_hnerv(tmp_path / "quant_vid.pth", rate=Fraction(30), settings="import")
    clip = Clip.parse(bytes(clip))
    assert (clip.header.frames, clip.header.height, clip.header.width, clip.header.rate) == (
        5,
        12,
        24,
        30,
    )
    decoder = ReferenceDecoder(clip)
    for index in range(5):
        errors = np.abs(decoder.frame(index) - by_hand(made, index))
        assert errors.mean() <= 1
        assert errors.max() <= 8  # its weights are random, so that small changes of them grow


@pytest.mark.skipif(
    PUBLISHED is None, reason="HNERV_CHECKPOINT does not name the authors' checkpoint"
)
def test_published_checkpoint_has_its_quality():
    clip = read_hnerv(Path(PUBLISHED), rate=Fraction(25), settings="import")
    assert (clip.header.frames, clip.header.height, clip.header.width) == (132, 640, 1280)
    decoder = ReferenceDecoder(clip)
    with av.open(SAMPLE) as container:
        # As FFmpeg converts them by default, as the authors' frames are: our own conversion has finer chroma.
        frames = [
            frame.to_ndarray(format="rgb24").transpose(2, 0, 1)[:, 40:680]
            for frame in container.decode(video=0)
        ]
    quality = {index: psnr_db(decoder.frame(index), frames[index]) for index in range(0, 132, 6)}
    assert quality[0] == pytest.approx(32.89, abs=0.05)
    assert np.mean(list(quality.values())) == pytest.approx(33.51, abs=0.05)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"not a checkpoint", b"\x80\x02J", pickle.dumps({"embed": 1}, 4)]
)
def test_no_checkpoint(tmp_path, content):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(SourceError, match="is no quantized checkpoint of HNeRV"):
        read_hnerv(tmp_path / "file.pth", rate=Fraction(25), settings="")


def test_no_file(tmp_path):
    with pytest.raises(SourceError, match="No such file"):
        read_hnerv(tmp_path / "file.pth", rate=Fraction(25), settings="")


def change(path, value):
    def apply(made):
        place = made
        for key in path[:-1]:
            place = place[key]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return made

    return apply


@pytest.mark.parametrize(
    "change",
    [
        change(("embed",), None),
        change(("model", "head_layer.bias"), None),
        change(("model", "head_layer.weight"), None),
        change(("model", "head_layer.weight"), 3),
        change(("embed", "quant"), torch.zeros(5, 16)),
        change(("embed", "scale"), torch.tensor(float("nan"))),
        change(("embed", "min"), torch.zeros(2, 1, 1, 1, 1)),
        change(("embed", "quant"), torch.zeros(1, dtype=torch.uint8).expand(1 << 40)),
        change(("embed", "quant"), torch.zeros(1, 16, 2000, 1, dtype=torch.uint8)),
        lambda made: [1, 2],
    ],
)
def test_checkpoint_of_something_else(tmp_path, change):
    torch.save(change(checkpoint()), tmp_path / "file.pth")
    with pytest.raises(SourceError, match="is no quantized checkpoint of HNeRV"):
        read_hnerv(tmp_path / "file.pth", rate=Fraction(25), settings="")


class Evil:
    def __reduce__(self):
        return print, ("evil",)


def test_nothing_in_a_checkpoint_is_run(tmp_path, capsys):
    torch.save({"embed": Evil()}, tmp_path / "file.pth")
    with pytest.raises(SourceError):
        read_hnerv(tmp_path / "file.pth", rate=Fraction(25), settings="")
    assert "evil" not in capsys.readouterr().out
