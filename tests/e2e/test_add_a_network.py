"""The example of the guide to new networks runs, and makes a clip."""

import re
from pathlib import Path

import numpy as np

import encoder
import export
from encoder.presets import PRESETS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-network.md"


def test_example_makes_a_clip_that_decodes(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", None)  # which the example replaces
    names: dict = {"__name__": "example"}
    exec(compile(block, str(PAGE), "exec"), names)
    assert "psnr_db" in capsys.readouterr().out
    clip = encoder.open("tiny.nerv")
    assert clip[:].shape == names["frames"].shape
    assert encoder.evaluate(clip, names["frames"]).psnr_db > 25
    assert "--preset tiny" in clip.header.settings
    with export.open_engine(clip, "onnxruntime-cpu", pixels="rgb") as engine:
        assert np.abs(engine[0:8].astype(int) - clip[0:8]).max() <= 1
