"""Attribution maps of networks whose receptive field is known, and their indices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import photo_like
from torch import Tensor, nn

from sruplift.attribution import (
    Attribution,
    BlurPath,
    Window,
    attribute,
    blurred,
    detect,
    gini,
    reach,
)
from sruplift.errors import NumericalError
from sruplift.models import create_model
from sruplift.weights import load_model

# Its last gradients, to the pixels at 31, still lie within the input's pixels 4 to 7 at x4.
WINDOW = Window(16, 16, 15)


def nearest(lr: Tensor) -> Tensor:
    return F.interpolate(lr, scale_factor=4, mode="nearest")


class Convolutions(nn.Module):
    """``count`` 3x3 convolutions with smooth activations, then nearest neighbour, x4."""

    def __init__(self, count: int) -> None:
        super().__init__()
        torch.manual_seed(count)
        layers = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(count))
        self.trunk = nn.Sequential(*(each for one in layers for each in (one, nn.SiLU())))

    def forward(self, lr: Tensor) -> Tensor:
        return nearest(self.trunk(lr))


def box(found: Attribution, faintest: float = 1e-7) -> tuple[int, int, int, int]:
    """The smallest box around what is attributed: top, left, bottom, right (exclusive)."""
    shares = found.map / found.map.max()
    rows, columns = torch.nonzero(shares > faintest, as_tuple=True)
    ends = int(rows.max()) + 1, int(columns.max()) + 1
    return int(rows.min()), int(columns.min()), *ends


def test_repeated_pixels_count_for_their_window_alone() -> None:
    found = attribute(nearest, photo_like(20, 24), WINDOW)
    assert box(found, 0.0) == WINDOW.footprint(4) == (4, 4, 8, 8)


def test_the_gradient_looks_one_pixel_further_right_and_down() -> None:
    found = attribute(nearest, photo_like(20, 24), Window(16, 16, 16))
    assert box(found, 0.0) == (4, 4, 9, 9)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_convolutions_count_as_far_as_they_reach_and_no_further(count: int) -> None:
    found = attribute(Convolutions(count), photo_like(20, 24), WINDOW, BlurPath(steps=8))
    assert box(found) == (4 - count, 4 - count, 8 + count, 8 + count)
    assert reach(found.map, WINDOW.footprint(4), 1.0) == count


def test_pan_counts_no_further_than_it_says() -> None:
    model = load_model("pan", 3)
    field = model.needs.receptive_field
    window = Window(0, 0, 8)
    found = attribute(model, photo_like(9, field + 12), window, BlurPath(steps=2))
    _, _, _, right = window.footprint(3)
    shares = found.map / found.map.max()
    assert float(shares[:, right + field :].max()) < 1e-9
    assert float(shares[:, right:].max()) > 1e-3


def test_attributions_add_up_to_what_the_detector_gained() -> None:
    picture = photo_like(20, 24)
    model = Convolutions(2)
    errors = []
    for steps in (25, 50, 200):
        found = attribute(model, picture, WINDOW, BlurPath(steps=steps))
        with torch.no_grad():
            target = detect(model(picture[None]), WINDOW)
            baseline = detect(model(blurred(picture, 1.2, 4)[None]), WINDOW)
        assert found.target == pytest.approx(float(target))
        assert found.baseline == pytest.approx(float(baseline), rel=1e-5)
        errors.append(abs(found.explained - 1))
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.05
    assert errors[2] < 0.01


def test_a_linear_detector_is_explained_exactly() -> None:
    """Where all gradients keep their direction the integral is what the picture gained."""
    ramp = torch.linspace(0, 1, 12) ** 2
    picture = ramp.expand(3, 12, 12).contiguous()
    found = attribute(lambda lr: lr, picture, Window(4, 4, 4), BlurPath(steps=3))
    assert found.explained == pytest.approx(1, abs=1e-3)
    # Along rows the sum of differences telescopes: the window's first column counts against it,
    # the one after its last for it.
    gain = picture.double() - blurred(picture.double(), 1.2, 4)
    expected = torch.zeros(12, 12, dtype=torch.float64)
    expected[4:8, 4] = -3 * gain[0, 4, 4]
    expected[4:8, 8] = 3 * gain[0, 4, 8]
    torch.testing.assert_close(found.values.sum(0), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", ["pan", "a2n", "maffsrn", "srram", "hpinet-s"])
def test_every_network_can_be_explained(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 2).eval()
    found = attribute(model, photo_like(24, 25), Window(20, 18, 8), BlurPath(steps=1))
    assert found.values.shape == (3, 24, 25)
    assert found.sr.shape == (3, 48, 50)
    torch.testing.assert_close(found.sr, model(photo_like(24, 25)[None])[0].detach())
    assert 0 < found.diffusion_index < 100
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_map_is_of_the_sum_over_channels() -> None:
    values = torch.tensor([[[1.0, -1.0]], [[2.0, -3.0]], [[-3.0, 1.0]]])
    found = Attribution(values, values, 0.0, 1.0)
    assert found.map.tolist() == [[0.0, 3.0]]


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    path = BlurPath(steps=3)
    attribute(nearest, photo_like(8, 8), Window(0, 0, 4), path, lambda *now: told.append(now))
    assert told == [(1, 3), (2, 3), (3, 3)]


# ---- Refusals


def test_a_flat_picture_has_nothing_to_attribute() -> None:
    with pytest.raises(NumericalError, match="flat around the window"):
        attribute(nearest, torch.full((3, 8, 8), 0.3), WINDOW)


def test_a_window_without_structure_has_nothing_to_attribute() -> None:
    picture = torch.full((3, 30, 30), 0.3)
    picture[:, 20:, 20:] = photo_like(10, 10)
    found = attribute(nearest, picture, Window(0, 0, 16))
    with pytest.raises(NumericalError, match="flat around the window"):
        _ = found.diffusion_index
    with pytest.raises(NumericalError, match="no difference"):
        _ = found.explained


def test_gradients_that_are_not_finite() -> None:
    with pytest.raises(NumericalError, match="not finite"):
        attribute(lambda lr: (lr * 0).sqrt(), photo_like(8, 8), Window(0, 0, 4))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"sigma": 0.0}, {"radius": 0}])
def test_a_path_that_leads_nowhere(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        BlurPath(**wrong)


# ---- The path


def test_the_path_leads_from_the_blurred_picture_to_the_picture() -> None:
    picture = photo_like(12, 10).double()
    path = BlurPath(steps=4)
    pictures = list(path.pictures(picture))
    assert len(pictures) == 5
    assert torch.equal(pictures[-1], picture)
    for each, sigma in zip(pictures, (1.2, 0.9, 0.6, 0.3), strict=False):
        torch.testing.assert_close(each, blurred(picture, sigma, 4))
    contrasts = [float(each.std()) for each in pictures]
    assert contrasts == sorted(contrasts)


def test_blur_is_a_gaussian_with_mirrored_borders() -> None:
    picture = photo_like(9, 11).double()
    places = np.arange(-4, 5)
    kernel = np.exp(-(places[:, None] ** 2 + places[None, :] ** 2) / (2 * 1.2**2))
    kernel /= kernel.sum()
    padded = np.pad(picture[1].numpy(), 4, mode="reflect")
    expected = [
        [(kernel * padded[row : row + 9, column : column + 9]).sum() for column in range(11)]
        for row in range(9)
    ]
    np.testing.assert_allclose(blurred(picture, 1.2, 4)[1].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 1)])
def test_pictures_smaller_than_the_kernel(size: tuple[int, int]) -> None:
    padded = blurred(torch.ones(3, *size), 1.2, 4)
    torch.testing.assert_close(padded, torch.ones(3, *size))
    row = blurred(torch.tensor([[[0.0, 1.0]]]), 1.2, 4)
    assert 0 < row[0, 0, 0] < row[0, 0, 1] < 1


# ---- The detector


def test_the_detector_adds_up_gradient_magnitudes() -> None:
    sr = photo_like(10, 12).double()
    value = 0.0
    for channel in sr.numpy():
        for row in range(3, 7):
            for column in range(5, 9):
                down = channel[row + 1, column] - channel[row, column]
                right = channel[row, column + 1] - channel[row, column]
                value += float(np.hypot(down, right))
    assert float(detect(sr[None], Window(3, 5, 4))) == pytest.approx(value, rel=1e-12)


def test_the_last_row_and_column_have_no_gradient() -> None:
    sr = photo_like(10, 12)[None]
    corner = detect(sr, Window(6, 8, 4))
    torch.testing.assert_close(corner, detect(sr, Window(6, 8, 3)))
    assert float(corner) > 0


def test_flat_places_have_a_derivative() -> None:
    sr = torch.zeros(1, 3, 8, 8, requires_grad=True)
    detect(sr, Window(0, 0, 8)).backward()
    assert sr.grad is not None
    assert torch.equal(sr.grad, torch.zeros_like(sr))


# ---- The indices


def test_gini_of_known_distributions() -> None:
    assert gini(torch.full((8, 8), 0.2)) == pytest.approx(0, abs=1e-12)
    one_hot = torch.zeros(8, 8)
    one_hot[3, 4] = 7.0
    assert gini(one_hot) == pytest.approx(1 - 1 / 64)
    # Half of them share all: the Lorenz curve is flat, then straight.
    assert gini(torch.tensor([0.0, 0.0, 5.0, 5.0])) == pytest.approx(0.5)


def test_gini_is_the_mean_difference() -> None:
    values = photo_like(6, 7)[0].flatten().double()
    differences = (values[:, None] - values[None, :]).abs().mean()
    assert gini(values) == pytest.approx(float(differences / (2 * values.mean())))
    assert gini(values * 1e-9) == pytest.approx(gini(values))
    with pytest.raises(NumericalError):
        gini(torch.zeros(3))


def test_diffusion_index_is_larger_where_more_pixels_count() -> None:
    picture = photo_like(20, 24)
    path = BlurPath(steps=5)
    few, many = (
        attribute(Convolutions(count), picture, WINDOW, path).diffusion_index for count in (1, 4)
    )
    assert 0 < few < many < 100


def test_footprint_covers_what_it_touches() -> None:
    assert Window(8, 4, 8).footprint(4) == (2, 1, 4, 3)
    assert Window(7, 5, 8).footprint(4) == (1, 1, 4, 4)
    assert Window(7, 5, 8).footprint(3) == (2, 1, 5, 5)


def test_reach_holds_its_share() -> None:
    attributions = torch.zeros(9, 9)
    attributions[4, 4] = 90.0
    attributions[4, 6] = 9.0
    attributions[0, 3] = 1.0
    footprint = (4, 4, 5, 5)
    assert [reach(attributions, footprint, share) for share in (0.5, 0.95, 0.995)] == [0, 2, 4]
