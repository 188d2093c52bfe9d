"""PSNR and SSIM against values that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from astraea.engine import metrics
from astraea.engine.metrics import psnr, ssim, value_range


def picture(seed: int = 0, *shape: int) -> torch.Tensor:
    return torch.rand(shape or (2, 3, 24, 32), generator=torch.Generator().manual_seed(seed))


def test_equal_tensors_are_infinitely_close() -> None:
    a = picture()
    assert psnr(a, a.clone(), 1.0) == math.inf
    assert ssim(a, a.clone(), 1.0) == pytest.approx(1.0)


def test_many_values_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = psnr(picture(0), picture(1), 1.0)
    monkeypatch.setattr(metrics, "VALUES_AT_ONCE", 7)
    assert psnr(picture(0), picture(1), 1.0) == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize(("offset", "peak", "decibels"), [(0.1, 1.0, 20.0), (0.01, 1.0, 40.0), (0.5, 5.0, 20.0)])
def test_a_constant_offset_gives_the_textbook_psnr(offset: float, peak: float, decibels: float) -> None:
    a = picture()
    assert psnr(a + offset, a, peak) == pytest.approx(decibels, abs=1e-4)


def test_ssim_of_two_plain_surfaces_is_their_luminance_term() -> None:
    a, b = torch.full((1, 1, 16, 16), 0.4), torch.full((1, 1, 16, 16), 0.6)
    expected = (2 * 0.4 * 0.6 + 1e-4) / (0.4**2 + 0.6**2 + 1e-4)
    assert ssim(a, b, 1.0) == pytest.approx(expected, abs=1e-5)


def test_ssim_is_that_of_gaussian_windows() -> None:
    a, b = picture(0, 1, 1, 11, 11).double(), picture(1, 1, 1, 11, 11).double()  # one window alone
    one = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2)).double()
    weights = one.outer(one) / one.outer(one).sum()
    mean_a, mean_b = ((weights * x).sum() for x in (a, b))
    var_a, var_b = ((weights * (x - mean) ** 2).sum() for x, mean in ((a, mean_a), (b, mean_b)))
    both = (weights * (a - mean_a) * (b - mean_b)).sum()
    expected = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
    expected /= (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
    assert ssim(a, b, 1.0) == pytest.approx(float(expected), abs=1e-9)


def test_ssim_falls_with_noise_and_does_not_depend_on_the_unit() -> None:
    a, noise = picture(), picture(1) - 0.5
    little, much = ssim(a + 0.05 * noise, a, 1.0), ssim(a + 0.5 * noise, a, 1.0)
    assert 1.0 > little > much > 0.0
    assert ssim(255 * (a + 0.05 * noise), 255 * a, 255.0) == pytest.approx(little, abs=1e-6)


def test_ssim_takes_images_smaller_than_its_window_and_many_frames() -> None:
    for shape in ((1, 16, 6, 8), (20, 1, 12, 12)):
        a = picture(0, *shape)
        assert ssim(a, a, 1.0) == pytest.approx(1.0)


def test_the_range_of_a_constant_is_one() -> None:
    assert value_range(torch.zeros(3)) == 1.0
    assert value_range(torch.tensor([-2.0, 3.0])) == 5.0
