"""What holds for every network: its size, any input, and that images of a batch are strangers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sruplift.models import MODELS, count_parameters, create_model
from sruplift.models.layers import at_pixels, means_around, mirror
from sruplift.models.srram import SRRAM

# Counted by hand from each paper's figures (its tables print them in thousands). SRRAM's table says
# 942K, 1127K and 1090K, which are these and two more last convolutions of 1,731 parameters.
PARAMETERS = {
    "pan": {2: 261_403, 3: 261_403, 4: 272_419},
    "a2n": {2: 1_036_443, 3: 1_036_443, 4: 1_047_459},
    "a2n-m": {2: 831_643, 3: 831_643, 4: 842_659},
    "maffsrn": {2: 402_394, 3: 418_774, 4: 441_706},
    "maffsrn-l": {2: 790_754, 3: 807_134, 4: 830_066},
    "srram": {2: 938_923, 3: 1_123_563, 4: 1_086_635},
    "srram-l": {2: 4_993_027},
    "hpinet-s": {2: 405_371, 3: 477_571, 4: 463_131},
    "hpinet-m": {2: 782_539, 3: 923_939, 4: 895_659},
    "hpinet-l": {2: 1_287_875, 3: 1_472_515, 4: 1_435_587},
}
NETWORKS = [(name, scale) for name, spec in MODELS.items() for scale in spec.scales]
every_network = pytest.mark.parametrize(("name", "scale"), NETWORKS)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def make(name: str, scale: int) -> nn.Module:
    """A network with fixed random weights."""
    torch.manual_seed(scale)
    return create_model(name, scale).eval()


def test_sizes_are_the_papers() -> None:
    found = {
        name: {scale: count_parameters(create_model(name, scale)) for scale in spec.scales}
        for name, spec in MODELS.items()
    }
    assert found == PARAMETERS


@every_network
def test_output_is_scale_times_larger_for_every_size(name: str, scale: int) -> None:
    """Diagonals of the square 1..70 x 1..70 that meet every height and every width."""
    model = make(name, scale)
    small = [(n, 1 + 17 * n % 23) for n in range(1, 24)]
    large = [(n, 1 + 31 * n % 70) for n in range(24, 71, 9)]
    for height, width in [*small, *large]:
        output = model(torch.rand(1, 3, height, width))
        assert output.shape == (1, 3, height * scale, width * scale)
        assert torch.isfinite(output).all()


@every_network
def test_an_image_does_not_see_the_others_of_its_batch(name: str, scale: int) -> None:
    model = make(name, scale)
    batch = torch.rand(3, 3, 41, 37)
    alone = torch.cat([model(image[None]) for image in batch])
    torch.testing.assert_close(model(batch), alone, rtol=0, atol=1e-5)


@every_network
def test_every_parameter_is_trained(name: str, scale: int) -> None:
    model = make(name, scale).train()
    with torch.enable_grad():
        model(torch.rand(2, 3, 26, 26)).square().mean().backward()
    idle = [key for key, value in model.named_parameters() if value.grad is None]
    assert idle == []


@pytest.mark.parametrize("name", ["a2n", "srram"])
def test_a_window_larger_than_the_image_pools_over_all_of_it(name: str) -> None:
    model = make(name, 2)
    if isinstance(model, SRRAM):
        for block in model.blocks:
            block.squeeze.weight.mul_(100)  # At the start variances are small.
    image = torch.rand(1, 3, 20, 28)
    whole = model(image)
    model.window = 56  # type: ignore[assignment]
    torch.testing.assert_close(model(image), whole, rtol=0, atol=2e-5)
    model.window = 8  # type: ignore[assignment]
    assert (model(image) - whole).abs().max() > 1e-6


def test_means_around_blocks_are_of_squares_inside_the_image() -> None:
    image = torch.rand(1, 2, 43, 52)  # 6 and 7 blocks, the last ones cut
    means = means_around(image, 24)
    assert means.shape == (1, 2, 6, 7)

    def square(row: int, column: int) -> Tensor:
        top, left = 8 * min(max(row - 1, 0), 3), 8 * min(max(column - 1, 0), 4)
        return image[..., top : top + 24, left : left + 24].mean((2, 3))

    for row in range(6):
        for column in range(7):
            torch.testing.assert_close(means[..., row, column], square(row, column))
    torch.testing.assert_close(means_around(image, 56)[..., 3, 3], image.mean((2, 3)))


def test_a_tile_on_the_grid_has_the_means_of_its_image() -> None:
    image = torch.rand(1, 1, 80, 96)
    whole, tile = means_around(image, 24), means_around(image[..., 16:72, 8:], 24)
    torch.testing.assert_close(tile[..., 1:-1, 1:], whole[..., 3:8, 2:])


def test_values_of_blocks_are_interpolated_between_their_middles() -> None:
    pixels = at_pixels(torch.tensor([[[[0.0, 8.0, 8.0]]]]), (3, 21))
    assert pixels.shape == (1, 1, 3, 21)
    row = [0.0] * 4 + [0.5 + i for i in range(8)] + [8.0] * 9
    torch.testing.assert_close(pixels[0, 0, 1], torch.tensor(row))


def test_mirrored_pixels_continue_the_image() -> None:
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert mirror(row, 1, 8)[0, 0, 0].tolist() == [1, 2, 3, 3, 2, 1, 1, 2]
    assert mirror(row, 2, 3)[0, 0].tolist() == [[1, 2, 3]] * 2
