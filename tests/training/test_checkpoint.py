from fractions import Fraction

import helpers
import pytest
import torch
from helpers import panning

from encoder.common.errors import SettingsError
from encoder.config import Budget, FitConfig
from encoder.jobs.checkpoint import Checkpoint
from encoder.media.video import Video
from encoder.presets import PRESETS

HOW = Checkpoint(
    source="a/video.mp4",
    width=64,
    height=48,
    seconds=1.5,
    config=FitConfig(mask="a/mask.png", segment_frames=4, key_interval=2, seed=7, matrix="bt709"),
)
VIDEO = Video(panning(8, 48, 64), Fraction(25))


def make_encoder(states=None, video=VIDEO, preset="fast"):
    return helpers.make_encoder(video, preset, segment_frames=4, states=states, keep_states=True)


def test_round_trip(tmp_path):
    states = [
        {"a.b": torch.arange(6.0).reshape(2, 3)},
        {"a.b": torch.zeros(2, 3), "c": torch.ones(1)},
    ]
    HOW.save(tmp_path / "fit.safetensors", states)
    how, loaded = Checkpoint.load(tmp_path / "fit.safetensors")
    assert how == HOW
    assert [list(state) for state in loaded] == [list(state) for state in states]
    assert all(
        torch.equal(state[name], loaded[index][name])
        for index, state in enumerate(states)
        for name in state
    )


def test_a_fit_goes_on_from_its_own_states():
    first = make_encoder()
    list(first.run(Budget(epochs=2)))
    # Changed, so that they cannot be taken for what another fit with the same seed comes to.
    states = [state | {"luma.bias": state["luma.bias"] + 5} for state in first.states]
    again = make_encoder(states)
    assert again.topology == first.topology
    networks = [again.network(index) for index in range(2)]
    assert all(network.camera is not None for network in networks)
    list(again.run(Budget(epochs=1), start=0.999))
    for before, after in zip(states, again.states, strict=True):
        assert torch.equal(
            before["camera.displacements.values"], after["camera.displacements.values"]
        )
        for name in ("luma.weight", "luma.bias"):
            assert torch.allclose(before[name], after[name], atol=0.1)


@pytest.mark.parametrize(
    "preset",
    ["fast", *(pytest.param(name, marks=pytest.mark.soak) for name in PRESETS if name != "fast")],
)
def test_every_preset_goes_on_from_its_states(preset):
    """What was reached is there at once: with frame encoders too, which are gone by then."""
    first = make_encoder(preset=preset)
    reached = [step.psnr_db for step in first.run(Budget(epochs=40))][-1]
    again = make_encoder(first.states, preset=preset)
    assert next(again.run(Budget(epochs=40), start=0.999)).psnr_db > reached - 3


def test_states_are_kept_only_if_wanted():
    encoder = helpers.make_encoder(VIDEO, segment_frames=4)
    list(encoder.run(Budget(epochs=1)))
    assert encoder.states == []


def test_states_are_those_before_rounding():
    encoder = make_encoder()
    list(encoder.run(Budget(epochs=30)))
    decoded = encoder.clip().segments[0].weights(encoder.topology.tensors)
    weights = dict(encoder.network(0).named_parameters())
    name = dict(zip(weights, encoder.topology.tensors, strict=True))["mix.weight"]
    difference = encoder.states[0]["mix.weight"].numpy() - decoded[name]
    assert 0 < abs(difference).mean() < abs(decoded[name]).mean()


def test_states_of_a_longer_video():
    first = make_encoder()
    list(first.run(Budget(epochs=1)))
    with pytest.raises(SettingsError, match="of another network, or of another video"):
        make_encoder(first.states, Video(panning(6, 48, 64), Fraction(25)))


@pytest.mark.parametrize(
    ("frames", "message"), [(8, "of another network"), (4, "has 2 segments, the video 1")]
)
def test_states_of_another_video(frames, message):
    first = make_encoder()
    list(first.run(Budget(epochs=1)))
    with pytest.raises(SettingsError, match=message):
        list(
            make_encoder(first.states, Video(panning(frames, 96, 64), Fraction(25))).run(
                Budget(epochs=1)
            )
        )
