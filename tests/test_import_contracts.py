"""The arrow of imports: player -> export -> encoder.media -> encoder.codec, and no torch in any of them."""

import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from helpers import SAMPLE
from packaging.requirements import Requirement

DECODE = """
import pathlib, sys
import numpy as np
from encoder.codec.clip import Clip
from export.engines.registry import open_engine
engine = open_engine(Clip.read(pathlib.Path(sys.argv[1])), {engine!r})
engine.frames(np.zeros(1))
engine.close()
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""
MODULES = """
import importlib, pkgutil, sys
for name in {packages}:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize(
    ("packages", "absent"),
    [
        (["encoder.codec"], {"torch", "av", "aiohttp", "aiortc", "export", "player"}),
        (["encoder.codec", "export"], {"torch", "av", "aiohttp", "aiortc", "player"}),
        (["encoder.codec", "encoder.media", "export", "player"], {"torch"}),
    ],
)
def test_modules_load_without(packages, absent):
    code = MODULES.format(packages=packages)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert absent & set(done.stdout.split()) == set()


def test_player_is_installed_without_torch():
    requirements = [Requirement(text) for text in requires("nervcast") or []]
    player = [
        r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": "player"})
    ]
    assert {"aiortc", "av", "openvino", "onnx"} <= set(player)
    assert not {"torch", "onnxscript", "tensorrt"} & set(player)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime-cpu"])
def test_decoding_loads_no_torch(engine):
    command = [sys.executable, "-c", DECODE.format(engine=engine), SAMPLE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()


def modules_of(folder):
    return [path for path in folder.iterdir() if path.suffix == ".py"]


@pytest.mark.parametrize(("package", "most"), [("encoder", 6), ("export", 8), ("player", 8)])
def test_rooms_are_small(package, most):
    """A newcomer finds a few modules at the top of a package, and none that is long."""
    root = Path(__file__).parents[1] / package
    assert len(modules_of(root)) <= most
    lengths = {path: len(path.read_text().splitlines()) for path in root.rglob("*.py")}
    assert {str(path) for path, lines in lengths.items() if lines > 300} == set()


def test_contracts_name_every_room():
    root = Path(__file__).parents[1]
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]
    named = {
        room.strip()
        for contract in contracts["contracts"]
        for layer in contract.get("layers", [])
        for room in layer.split("|")
    }
    for package in ("encoder", "export", "player"):
        places = {path.stem for path in (root / package).iterdir() if path.suffix in ("", ".py")}
        rooms = places - {"__init__", "__main__", "__pycache__", "data", "json_log", "hardware"}
        assert {f"{package}.{room}" for room in rooms} <= named
