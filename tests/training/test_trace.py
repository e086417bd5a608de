"""Topologies that are kept from one run to the next."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from encoder.jobs import trace
from encoder.jobs.trace import topology_of
from encoder.models.base import VideoShape
from encoder.presets import PRESETS

SHAPE = VideoShape(height=36, width=64, frames=5, margin=None)
NETWORK = PRESETS["nerv++"].network


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A machine that has traced nothing yet, and the folder of what it keeps."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    topology_of.cache_clear()
    yield tmp_path / "nervcast" / "topologies"
    topology_of.cache_clear()


@pytest.fixture
def traced(monkeypatch):
    """The networks that have been traced."""
    networks = []
    real = trace.trace
    monkeypatch.setattr(trace, "trace", lambda network: networks.append(network) or real(network))
    return networks


def test_topology_is_traced_once_on_a_machine(kept, traced):
    first = topology_of(NETWORK, SHAPE, "XS")
    assert len(list(kept.iterdir())) == 1
    topology_of.cache_clear()  # as in a new process
    assert topology_of(NETWORK, SHAPE, "XS").packed == first.packed
    assert len(traced) == 1


@pytest.mark.parametrize("damage", [b"", b"of another program", None])
def test_damaged_file_is_made_anew(kept, traced, damage):
    first = topology_of(NETWORK, SHAPE, "XS")
    (path,) = kept.iterdir()
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    topology_of.cache_clear()
    assert topology_of(NETWORK, SHAPE, "XS").packed == first.packed
    assert path.read_bytes() == first.packed
    assert len(traced) == 2


def test_others_are_other_files(kept, monkeypatch):
    paths = {
        trace._kept_path(NETWORK, SHAPE, "XS"),
        trace._kept_path(NETWORK, SHAPE, "S"),
        trace._kept_path(NETWORK, VideoShape(height=36, width=64, frames=6), "XS"),
        trace._kept_path(PRESETS["nerv"].network, SHAPE, "XS"),
    }
    monkeypatch.setattr(trace, "_code", lambda: "of another version")
    paths.add(trace._kept_path(NETWORK, SHAPE, "XS"))
    assert len(paths) == 5
    assert {path.parent for path in paths} == {kept}


def test_networks_of_users_are_not_kept(kept, traced):
    class Fading(nn.Module):
        def __init__(self):
            super().__init__()
            self.picture = nn.Parameter(torch.zeros(3, 36, 64))

        def forward(self, t):
            return t[:, None, None, None] * self.picture

    topology_of(lambda _shape, _size: Fading(), SHAPE, "XS")
    assert len(traced) == 1
    assert not kept.exists()


def test_folder_that_cannot_be_written_costs_no_fit(kept, traced, caplog):
    kept.parent.mkdir()
    kept.touch()
    assert topology_of(NETWORK, SHAPE, "XS").tensors
    assert "the next start takes as long as this one" in caplog.text
    assert len(traced) == 1


def test_preset_of_a_user_is_not_kept(kept, traced, monkeypatch):
    """Its code may change between two runs under the same name."""
    own = PRESETS["nerv++"]

    def network(shape, size):
        return own.network(shape, size)

    monkeypatch.setitem(PRESETS, "mine", replace(own, network=network))
    topology_of(PRESETS["mine"].network, SHAPE, "XS")
    assert len(traced) == 1
    assert not kept.exists()
