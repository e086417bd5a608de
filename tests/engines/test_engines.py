"""The choice among engines."""

import ast
import json
import subprocess
import sys
import time

import pytest
from helpers import SAMPLE

from encoder.common.errors import EngineError, SettingsError
from export.engines import registry
from export.engines.names import ENGINE_NAMES
from export.engines.registry import ENGINES, _fps, open_engine

HERE = ["openvino", "onnxruntime-cpu"]


@pytest.fixture
def speeds(monkeypatch, tmp_path):
    """Frames per second that engines are found to decode, of those that run on CPUs; how often each was tried."""
    speeds, tried = dict.fromkeys(HERE, 1.0), []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("export.engines.registry._CHOSEN", {})  # by another test
    monkeypatch.setattr("export.engines.registry.ENGINES", {name: ENGINES[name] for name in HERE})
    monkeypatch.setattr(
        "export.engines.registry._fps",
        lambda engine: tried.append(engine.name) or speeds[engine.name],
    )
    return speeds, tried


def chosen(clip):
    engine = open_engine(clip)
    engine.close()
    return engine.name


@pytest.mark.parametrize("best", HERE)
def test_auto_takes_the_fastest_and_remembers_it(tiny_clip, speeds, best):
    fps, tried = speeds
    fps[best] = 2.0
    assert chosen(tiny_clip) == best
    assert tried == HERE
    assert chosen(tiny_clip) == best
    assert tried == HERE


def test_auto_measures_anew_for_another_batch_or_machine(tiny_clip, speeds, monkeypatch):
    _, tried = speeds
    open_engine(tiny_clip).close()
    open_engine(tiny_clip, batch=3).close()
    assert len(tried) == 4
    monkeypatch.setattr("export.engines.registry.describe", lambda: "a machine with another GPU")
    open_engine(tiny_clip).close()
    assert len(tried) == 6


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}'])
@pytest.mark.usefixtures("speeds")
def test_auto_goes_on_without_a_readable_memory(tiny_clip, tmp_path, text):
    (tmp_path / "cache" / "nervcast").mkdir(parents=True)
    (tmp_path / "cache" / "nervcast" / "engines.json").write_text(text)
    assert chosen(tiny_clip) == "openvino"


@pytest.mark.usefixtures("speeds")
def test_auto_goes_on_where_nothing_can_be_remembered(tiny_clip, tmp_path):
    (tmp_path / "cache").touch()
    assert chosen(tiny_clip) == "openvino"


@pytest.mark.usefixtures("speeds")
def test_what_is_remembered_is_bounded(tiny_clip, tmp_path, monkeypatch):
    monkeypatch.setattr("export.engines.registry.MAX_CHOICES", 2)
    for batch in (1, 2, 3):
        open_engine(tiny_clip, batch=batch).close()
    assert len(json.loads((tmp_path / "cache" / "nervcast" / "engines.json").read_text())) == 2


def test_auto_tries_again_where_the_fastest_does_not_run_any_more(tiny_clip, speeds, monkeypatch):
    speeds[0]["openvino"] = 2.0
    assert chosen(tiny_clip) == "openvino"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert chosen(tiny_clip) == "onnxruntime-cpu"


def test_trial_counts_frames(tiny_clip, monkeypatch):
    monkeypatch.setattr("export.engines.registry.TRIAL_SECONDS", 0.1)
    engine = open_engine(tiny_clip, "onnxruntime-cpu", batch=4)
    began = time.perf_counter()
    fps = _fps(engine)
    engine.close()
    assert fps * 0.1 >= 4
    assert time.perf_counter() - began >= 0.1


@pytest.mark.usefixtures("speeds")
def test_engine_that_refuses_the_clip_is_left_out(tiny_clip, monkeypatch):
    def refuse(_self, _model):
        raise EngineError("not this one")

    monkeypatch.setattr("export.engines.ov.OpenVino.load", refuse)
    engine = open_engine(tiny_clip)
    engine.close()
    assert engine.name == "onnxruntime-cpu"
    with pytest.raises(EngineError, match="not this one"):
        open_engine(tiny_clip, "openvino")


def test_every_engine_has_its_name():
    assert tuple(ENGINES) == ENGINE_NAMES


def test_unknown_engine_lists_the_known_ones(tiny_clip):
    with pytest.raises(
        SettingsError, match=f"unknown engine 'x', known are: auto, {', '.join(ENGINES)}"
    ):
        open_engine(tiny_clip, "x")


def test_engines_report_to_nobody(tmp_path):
    """OpenVINO would start a process that does, ONNX Runtime would look its maker's server up."""
    code = (
        "import os, sys, time; from pathlib import Path; from export.engines.registry import open_engine; "
        "from encoder.codec.clip import Clip; import onnxruntime; "
        f"engine = open_engine(Clip.read(Path({str(SAMPLE)!r})), 'openvino'); engine.close(); "
        "assert sys.modules['openvino_telemetry'] is None; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'; "
        "tasks = Path('/proc/self/task').iterdir(); print([(task / 'children').read_text() for task in tasks])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(ast.literal_eval(done.stdout)) == {""}


def test_choice_is_kept_in_memory_where_it_cannot_be_written(sample_clip, monkeypatch):
    trials = []
    monkeypatch.setattr(registry, "_CHOSEN", {})
    monkeypatch.setattr(registry, "_choices", dict)
    monkeypatch.setattr(registry, "keep", lambda *_: None)
    monkeypatch.setattr(
        registry, "_fps", lambda engine: trials.append(engine.name) or float(len(trials))
    )
    for _ in range(3):
        open_engine(sample_clip, "auto").close()
    assert len(trials) == len(set(trials)) > 1
