"""Patches against PyTorch in float64; in bf16 with what that rounds as tolerance."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sruplift.kernels import Arithmetic, PatchLayers, PlaneMap, join
from sruplift.kernels.patches import Layer


def close(arithmetic: Arithmetic) -> dict[str, float]:
    """Of features of about 1 to 3, rounded a dozen times."""
    return {"rtol": 0.02, "atol": 0.05} if arithmetic.half else {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def random_steps(
    channels: int, query: int, hidden: int, *, sharp: float = 1.0
) -> list[list[Layer]]:
    some = torch.Generator().manual_seed(channels + query + hidden)

    def layer(outputs: int, inputs: int, *, biased: bool = True, times: float = 1.0) -> Layer:
        weight = torch.randn(outputs, inputs, generator=some) * times / inputs**0.5
        return weight, torch.randn(outputs, generator=some) / 4 if biased else None

    return [
        [
            layer(query, channels, times=sharp / query**0.5),
            layer(query, channels, biased=step > 0),
            layer(channels, channels, biased=step > 0),
            layer(hidden, channels),
            layer(channels, hidden),
        ]
        for step in range(3)
    ]


def expected_of(patches: Tensor, partners: Tensor, steps: list[list[Layer]]) -> Tensor:
    """Of patches (patches, C, pixels), likewise."""
    x = patches.double().mT
    for number, step in enumerate(steps):

        def normal(x: Tensor) -> Tensor:
            return F.layer_norm(x, x.shape[-1:])

        def after(x: Tensor, layer: Layer) -> Tensor:
            weight, bias = layer
            return F.linear(x, weight.double(), None if bias is None else bias.double())

        query, key, value, widen, narrow = step
        seen = normal(x) if number else x[partners]
        scores = after(normal(x), query) @ after(seen, key).mT
        x = x + scores.softmax(-1) @ after(seen, value)
        x = x + after(F.gelu(after(normal(x), widen)), narrow)
    return x.mT


def cut(x: Tensor, tops: list[int], lefts: list[int], side: int) -> Tensor:
    parts = [x[:, t : t + side, left : left + side].flatten(1) for t in tops for left in lefts]
    return torch.stack(parts)


@pytest.mark.parametrize(
    ("side", "channels", "query", "hidden"),
    [
        (2, 20, 6, 10),
        (4, 8, 6, 10),
        (4, 40, 24, 72),
        (8, 72, 8, 10),
        (6, 8, 6, 10),
        (8, 40, 24, 72),
        (12, 40, 24, 72),
        (14, 40, 24, 72),
        (16, 56, 32, 100),
        (20, 6, 8, 4),
        (24, 5, 3, 7),
    ],
)
@pytest.mark.parametrize("sharp", [1.0, 12.0])
def test_patches(
    arithmetic: Arithmetic, side: int, channels: int, query: int, hidden: int, sharp: float
) -> None:
    """Sharp ones have a query attend to few pixels: most weights vanish."""
    steps = random_steps(channels, query, hidden, sharp=sharp)
    tops, lefts = [0, max(side - 2, 1), side + 3], [0, 1]
    x = torch.randn(channels, 2 * side + 3, side + 5, generator=torch.Generator().manual_seed(0))
    x = x.bfloat16().float()
    partners = torch.tensor([1, 0, 5, 2, 2, 4])
    seen: list[Tensor] = []

    def match(means: Tensor) -> Tensor:
        seen.append(means)
        return partners

    layers = PatchLayers(arithmetic, side, steps)
    result = layers.run(PlaneMap.of(arithmetic, x), tops, lefts, match)
    patches = cut(x, tops, lefts, side)
    torch.testing.assert_close(seen[0], patches.mean(-1), rtol=0, atol=1e-5)
    expected = expected_of(patches, partners, steps)
    away = (result - expected).abs()
    assert result.dtype == torch.float32
    if sharp == 1:
        torch.testing.assert_close(result.double(), expected, **close(arithmetic))
    else:  # Where two pixels are almost alike to a query, rounding decides between them.
        assert float((away**2).mean()) < 5e-3 * float(expected.var())


def test_weights_that_all_vanish_at_first_are_taken_from_the_largest(
    arithmetic: Arithmetic,
) -> None:
    """Queries across long keys: no product is near the bound that exponents are taken from."""
    channels = 8
    steps = random_steps(channels, 8, 4)
    far = torch.zeros(8, channels)
    far[0, 0], across = 400.0, torch.zeros(8, channels)
    across[1, 1] = 400.0
    for number in (1, 2):
        steps[number][0], steps[number][1] = (far, None), (across, torch.zeros(8))
    x = torch.randn(channels, 8, 8, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    layers = PatchLayers(arithmetic, 8, steps)
    result = layers.run(PlaneMap.of(arithmetic, x), [0], [0], lambda _: torch.tensor([0]))
    expected = expected_of(x.flatten(1)[None], torch.tensor([0]), steps)
    torch.testing.assert_close(result.double(), expected, **close(arithmetic))


@pytest.mark.parametrize("size", [1e3, 1e5])
def test_products_past_what_bf16_tells_apart(arithmetic: Arithmetic, size: float) -> None:
    """Each query attends to the one key whose product is the largest, by far."""
    steps = random_steps(8, 8, 4)
    steps[0][0] = (steps[0][0][0] * size, steps[0][0][1])
    x = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(2)).bfloat16().float()
    layers = PatchLayers(arithmetic, 8, steps)
    result = layers.run(PlaneMap.of(arithmetic, x), [0], [0], lambda _: torch.tensor([0]))
    expected = expected_of(x.flatten(1)[None], torch.tensor([0]), steps)
    assert float(((result - expected) ** 2).mean()) < 0.02 * float(expected.var())


def test_threads_give_the_same_bits(arithmetic: Arithmetic) -> None:
    layers = PatchLayers(arithmetic, 12, random_steps(40, 24, 72))
    x = PlaneMap.of(arithmetic, torch.randn(40, 42, 42))
    places, before = [0, 10, 20, 30], torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(
                layers.run(x, places, places, lambda m: m.shape[0] - 1 - torch.arange(16))
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_copy_computes_the_same(arithmetic: Arithmetic) -> None:
    layers = PatchLayers(arithmetic, 8, random_steps(6, 4, 8))
    x = PlaneMap.of(arithmetic, torch.randn(6, 8, 20))
    results = [
        each.run(x, [0], [0, 12], lambda _: torch.tensor([1, 0]))
        for each in (layers, copy.deepcopy(layers), pickle.loads(pickle.dumps(layers)))
    ]
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("channels", [1, 6, 7])
def test_patches_are_joined(arithmetic: Arithmetic, channels: int) -> None:
    side, tops, lefts = 8, [0, 6, 9], [0, 5]
    patches = torch.randn(6, channels, side**2)
    rows, columns = torch.rand(17), torch.rand(13)
    made = join(arithmetic, patches, (tops, lefts), (rows, columns))
    expected = torch.zeros(channels, 17, 13)
    for number, patch in enumerate(patches):
        top, left = tops[number // 2], lefts[number % 2]
        expected[:, top : top + side, left : left + side] += patch.view(channels, side, side)
    expected *= rows[:, None] * columns
    same = PlaneMap.of(arithmetic, expected)
    assert (made.channels, made.height, made.width) == (channels, 17, 13)
    if not arithmetic.half:
        values, exact = (each.data[:-200].view(torch.float32) for each in (made, same))
        torch.testing.assert_close(values, exact, rtol=0, atol=1e-6)
        return
    difference = made.data[:-200] - same.data[:-200]  # a unit of bf16's last place, either half
    assert set(difference.abs().unique().tolist()) <= {0, 1, 2**16, 2**16 - 1, 2**16 + 1}
    assert float((difference != 0).float().mean()) < 0.01


def test_what_does_not_fit_is_refused(arithmetic: Arithmetic) -> None:
    with pytest.raises(ValueError, match="no pairs of pixels"):
        PatchLayers(arithmetic, 7, random_steps(6, 4, 8))
    steps = random_steps(6, 4, 8)
    for few in (steps[:2], []):
        with pytest.raises(ValueError, match="not 3 steps"):
            PatchLayers(arithmetic, 8, few)
    steps[1][3] = steps[1][4]
    with pytest.raises(ValueError, match="do not fit"):
        PatchLayers(arithmetic, 8, steps)
    steps = random_steps(6, 4, 8)
    steps[1][3] = (steps[1][3][0], torch.zeros(7))
    with pytest.raises(ValueError, match="do not fit"):
        PatchLayers(arithmetic, 8, steps)
    layers = PatchLayers(arithmetic, 8, random_steps(6, 4, 8))
    x = PlaneMap.of(arithmetic, torch.randn(6, 8, 20))
    patches, places, weights = (
        torch.zeros(2, 6, 64),
        ([0], [0, 12]),
        (torch.ones(8), torch.ones(20)),
    )
    join(arithmetic, patches, places, weights)
    for wrong in (patches.double(), patches.mT, patches[:1], patches[..., :60]):
        with pytest.raises(ValueError, match="not in the map"):
            join(arithmetic, wrong, places, weights)
    with pytest.raises(ValueError, match="not in the map"):
        join(arithmetic, patches, ([0], [0, 13]), weights)
    one = torch.tensor([0])
    for map_, tops, lefts in ((x, [1], [0]), (x, [0], [13]), (x, [-1], [0])):
        with pytest.raises(ValueError, match="not in the map"):
            layers.run(map_, tops, lefts, lambda _: one)
    with pytest.raises(ValueError, match="not in the map"):
        layers.run(PlaneMap(arithmetic, 8, 8, 20), [0], [0], lambda _: one)
    for partners in (one + 1, one - 1, torch.tensor([0, 0]), torch.tensor([0.0])):
        with pytest.raises(ValueError, match="no patches"):
            layers.run(x, [0], [0], lambda _, p=partners: p)  # type: ignore[misc]
