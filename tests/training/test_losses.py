import pytest
import torch

from encoder.training.losses import l1_ms_ssim_frequencies, l1_ssim, ms_ssim_window, squared


@pytest.mark.parametrize("loss", [squared, l1_ssim, l1_ms_ssim_frequencies])
@pytest.mark.parametrize("size", [(16, 24), (180, 320)])
def test_losses_are_zero_without_error_and_grow_with_it(loss, size):
    target = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) - 0.5
    small, large = (loss(target + noise * share, target).item() for share in (0.05, 0.2))
    assert loss(target, target).item() == pytest.approx(0, abs=1e-5)
    assert 0 < small < large


def test_losses_of_an_offset_are_what_the_papers_say():
    """Structural similarity of flat pictures a and b is the luminance's, (2ab + c) / (a^2 + b^2 + c), c = 0.01^2."""
    target, output = torch.full((1, 3, 180, 320), 0.5), torch.full((1, 3, 180, 320), 0.6)
    similarity = (2 * 0.5 * 0.6 + 1e-4) / (0.5**2 + 0.6**2 + 1e-4)
    assert squared(output, target).item() == pytest.approx(8 * 0.01, rel=1e-4)
    assert l1_ssim(output, target).item() == pytest.approx(
        0.7 * 0.1 + 0.3 * (1 - similarity), rel=1e-3
    )
    # Only the coarsest scale has luminance, with a weight of 0.1333. The spectrum is 0.1 H W in one place, and zero elsewhere.
    expected = 60 * (0.7 * 0.1 + 0.3 * (1 - similarity**0.1333)) + 0.1 / 2
    assert l1_ms_ssim_frequencies(output, target).item() == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("size", "window"),
    [((720, 1280), 11), ((161, 400), 11), ((160, 400), 9), ((33, 40), 3), ((32, 40), None)],
)
def test_window_fits_the_smallest_scale(size, window):
    assert ms_ssim_window(*size) == window
