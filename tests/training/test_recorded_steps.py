"""Steps recorded as CUDA graphs, and their arithmetic; where there is a GPU, on it as well."""

import warnings

import pytest
import torch
from helpers import moving_square

from encoder.common.errors import SettingsError
from encoder.config import Budget
from encoder.models.base import VideoShape
from encoder.presets import PRESETS, build
from encoder.training.rate_control import RateControl
from encoder.training.recorded_step import RecordedStep, kind_of_step
from encoder.training.step import TrainStep
from encoder.training.trainer import Trainer

HAS_GPU = torch.cuda.is_available()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not HAS_GPU, reason="no GPU"))]
EPOCHS = 12


def open_fit(
    name, kind, *, device="cpu", trainer=Trainer, epochs=EPOCHS, target_bits=None, **options
):
    torch.manual_seed(1)
    preset = PRESETS[name]
    margin = (2, 2) if preset.camera else None
    shape = VideoShape(height=36, width=64, frames=10, margin=margin)
    network = build(preset, shape, "XS").to(device)
    encoder = network.frame_encoder()
    encoder = None if encoder is None else encoder.to(device)
    rate = RateControl(lambda_=0.05, pixels=10 * 36 * 64, target_bits=target_bits)
    step = kind(network, preset.recipe, frame_encoder=encoder, rate=rate, **options)
    return trainer(step, Budget(epochs=epochs))


def frames_on(device):
    return torch.from_numpy(moving_square(10, 36, 64)).to(device)


def qualities(fit, device="cpu"):
    return [epoch.psnr_db for epoch in fit.epochs(frames_on(device))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [{}, {"prune": 0.3}])
@pytest.mark.parametrize("name", ["fast", "hnerv", "nerv++"])
def test_recorded_steps_are_the_same_steps(name, options, device):
    """On a CPU they are computed again; what a GPU would replay is what is kept of them."""
    expected = qualities(open_fit(name, TrainStep, device=device, **options), device)
    recorded = open_fit(name, RecordedStep, device=device, **options)
    found = qualities(recorded, device)
    assert not recorded.training._is_refused
    assert found == pytest.approx(expected, abs=1e-4 if device == "cpu" else 0.5)
    assert expected[-1] > expected[0]


@pytest.mark.parametrize("device", DEVICES)
def test_recorded_steps_see_the_mask_of_their_own_frames(device):
    mask = torch.zeros(10, 36, 64, dtype=torch.bool, device=device)
    mask[::2, 4:20, 8:40] = True
    plain, recorded = (
        [epoch.psnr_db for epoch in fit.epochs(frames_on(device), mask)]
        for fit in (open_fit("fast", kind, device=device) for kind in (TrainStep, RecordedStep))
    )
    assert recorded == pytest.approx(plain, abs=1e-4 if device == "cpu" else 0.5)
    assert plain != pytest.approx(qualities(open_fit("fast", TrainStep, device=device), device))


@pytest.mark.parametrize("device", DEVICES)
def test_a_fit_that_collapses_goes_on_with_recorded_steps(device, caplog):
    """Back to an earlier state, whose tensors are not those that were recorded."""

    class Collapsing(RecordedStep):
        def step(self, *args, **options):
            if self.steps == 30 and not caplog.records:
                with torch.no_grad():
                    for x in self.network.parameters():
                        x.mul_(100)
            return super().step(*args, **options)

    found = qualities(open_fit("fast", Collapsing, device=device, epochs=40), device)
    assert "back to where it was" in caplog.text
    assert found[-1] == pytest.approx(max(found), abs=3)


def test_memory_that_runs_out_costs_the_records_alone(monkeypatch, caplog):
    def refuse(*_args, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    caplog.set_level("INFO")
    expected = qualities(open_fit("fast", TrainStep))
    monkeypatch.setattr(RecordedStep, "_record", refuse)
    fit = open_fit("fast", RecordedStep)
    assert qualities(fit) == pytest.approx(expected, abs=1e-4)
    assert "not recorded as CUDA graphs, for lack of memory" in caplog.text
    assert not fit.training._recorded


@pytest.mark.parametrize("device", DEVICES)
def test_steps_are_replayed(device):
    """The first of each kind in a phase prepares, and the second is recorded."""
    launched = []
    record = RecordedStep._record

    class Noting(RecordedStep):
        def _record(self, *args, **options):
            made = record(self, *args, **options)
            object.__setattr__(made, "launch", lambda go=made.launch: (launched.append(1), go()))
            return made

    fit = open_fit("fast", Noting, device=device)
    qualities(fit, device)
    assert len(launched) > fit.training.steps / 3


@pytest.mark.parametrize("after", [TrainStep, RecordedStep])
@pytest.mark.parametrize("device", DEVICES)
def test_a_fit_goes_on_from_recorded_steps(device, after, tmp_path):
    """The state may be of a GPU, and be read on a machine without one."""
    fit = open_fit("fast", RecordedStep, device=device)
    passed = fit.epochs(frames_on(device))
    for _ in range(8):
        next(passed)
    torch.save(fit.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", map_location="cpu", weights_only=False)
    expected = [epoch.psnr_db for epoch in passed]
    for place in {device, "cpu"}:
        resumed = open_fit("fast", after, device=place)
        resumed.load_state_dict(state)
        found = qualities(resumed, place)
        assert found == pytest.approx(expected, abs=1e-4 if device == "cpu" else 0.5)


def test_network_that_cannot_be_recorded_is_fitted_step_by_step(monkeypatch, caplog):
    def refuse(*_args, **_options):
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with ...")

    caplog.set_level("INFO")
    expected = qualities(open_fit("fast", TrainStep))
    monkeypatch.setattr(RecordedStep, "_record", refuse)
    assert qualities(open_fit("fast", RecordedStep)) == pytest.approx(expected, abs=1e-4)
    assert [record.getMessage() for record in caplog.records] == [
        "steps are not recorded as CUDA graphs: operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize("device", DEVICES)
def test_steps_that_are_steered_to_a_size_are_not_recorded(device):
    fit = open_fit("fast", RecordedStep, device=device, target_bits=8 * 4000)
    qualities(fit, device)
    assert not fit.training._recorded


def test_kind_of_step_depends_on_the_device_and_the_optimizer():
    adan, muon = PRESETS["hnerv-boost"].recipe, PRESETS["fast"].recipe
    assert adan.optimizer == "adan"
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    kinds = [kind_of_step(recipe, device) for recipe in (adan, muon) for device in (cpu, cuda)]
    assert kinds == [TrainStep, TrainStep, TrainStep, RecordedStep]
    with pytest.raises(SettingsError, match="Adan"):
        open_fit("hnerv-boost", RecordedStep)


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_is_the_networks_alone(device):
    """The loss, the rate, the gradients and the weights are in fp32, and the fit is as good."""
    kept = {}

    class Noting(TrainStep):
        def _forward(self, tensors, t, progress):
            kept["weights"] = {x.dtype for x in tensors.values()}
            output = super()._forward(tensors, t, progress)
            kept["output"] = output.dtype
            return output

        def _weighed_bits(self, *args):
            bits = super()._weighed_bits(*args)
            kept["bits"] = bits.dtype
            return bits

    found = {}
    for precision in ("fp32", "auto", "bf16"):
        fit = open_fit("nerv", Noting, device=device, precision=precision)
        found[precision] = qualities(fit, device)[-1]
        assert kept["output"] == (torch.bfloat16 if precision == "bf16" else torch.float32)
        assert kept["weights"] == {torch.float32}
        assert kept["bits"] == torch.float32
        assert all(
            x.grad is None or x.grad.dtype == torch.float32
            for x in fit.training.network.parameters()
        )
    assert found["bf16"] != found["fp32"]
    assert found["bf16"] == pytest.approx(found["fp32"], abs=1)
    if device == "cpu":
        assert found["auto"] == found["fp32"]


def test_precision_of_convolutions_is_left_as_it_was():
    before = torch.backends.cudnn.allow_tf32
    seen = []

    class Noting(TrainStep):
        def _update(self, *args):
            note(self)
            return super()._update(*args)

        def finish(self, *args):
            note(self)
            super().finish(*args)

    def note(training):
        seen.append((training.precision, torch.backends.cudnn.allow_tf32))
        assert not torch.backends.cuda.matmul.allow_tf32

    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        for precision in ("fp32", "auto"):
            qualities(open_fit("hnerv", Noting, epochs=1, precision=precision))
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert set(seen) == {("fp32", False), ("auto", True)}
    assert torch.backends.cudnn.allow_tf32 is before


@pytest.mark.skipif(not HAS_GPU, reason="no GPU")
@pytest.mark.parametrize("kind", [TrainStep, RecordedStep])
@pytest.mark.parametrize("name", ["fast", "hnerv", "nerv++"])
def test_nothing_waits_for_the_gpu_within_an_epoch(name, kind):
    """But for epochs in which a phase begins, or steps are recorded."""
    waits = []

    class Watched(Trainer):
        def _pass(self, step_frames):
            began, known = self.training.changed_at, dict(getattr(self.training, "_recorded", {}))
            quantizer = self.training.quantizer
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    yield from super()._pass(step_frames)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            is_same = (began, quantizer) == (self.training.changed_at, self.training.quantizer)
            if is_same and known == getattr(self.training, "_recorded", {}):
                waits.append(
                    [str(each.message) for each in caught if "synchroni" in str(each.message)]
                )

    qualities(open_fit(name, kind, device="cuda", trainer=Watched, epochs=40), "cuda")
    assert len(waits) > 10
    assert not any(waits)
