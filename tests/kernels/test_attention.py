"""Our own attention against PyTorch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sruplift.kernels import Kernels, attend

CLOSE = {"rtol": 0, "atol": 2e-6}


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expected_of(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query.double() @ key.double().mT).softmax(-1) @ value.double()


@pytest.mark.parametrize("queries", [1, 3, 4, 5, 144])
@pytest.mark.parametrize("keys", [1, 7, 16, 33, 100])
@pytest.mark.parametrize(("width", "values"), [(1, 1), (20, 40), (10, 19), (24, 3), (16, 100)])
def test_every_size(kernels: Kernels, queries: int, keys: int, width: int, values: int) -> None:
    query, key = maps(2, 3, queries, width) * width**-0.5, maps(2, 3, keys, width, seed=1)
    value = maps(2, 3, keys, values, seed=2)
    result = attend(kernels, query, key, value)
    assert result.shape == (2, 3, queries, values)
    torch.testing.assert_close(result.double(), expected_of(query, key, value), **CLOSE)


@pytest.mark.parametrize("size", [30.0, 1000.0])
def test_large_scores_do_not_overflow(kernels: Kernels, size: float) -> None:
    query, key, value = maps(1, 9, 8) * size, maps(1, 21, 8, seed=1), maps(1, 21, 8, seed=2)
    result = attend(kernels, query, key, value)
    # Scores of hundreds are rounded in float32 before their exponential.
    torch.testing.assert_close(
        result.double(), expected_of(query, key, value), rtol=0, atol=1e-6 * size
    )


def test_equal_scores_far_below_zero_give_the_mean(kernels: Kernels) -> None:
    # Keys beyond the last one of a group must not count, which score zero.
    query, key = torch.full((1, 4, 1), -500.0), torch.ones(1, 3, 1)
    value = torch.tensor([[[1.0], [2.0], [6.0]]])
    torch.testing.assert_close(attend(kernels, query, key, value), torch.full((1, 4, 1), 3.0))


def test_scores_of_any_size_outweigh_keys_that_are_not_there(kernels: Kernels) -> None:
    query, key = torch.full((1, 4, 1), -2e30), torch.ones(1, 3, 1)
    value = torch.tensor([[[1.0], [2.0], [6.0]]])
    torch.testing.assert_close(attend(kernels, query, key, value), torch.full((1, 4, 1), 3.0))


def test_no_number_stays_none(kernels: Kernels) -> None:
    query = maps(1, 4, 8)
    query[0, 2, 3] = float("nan")
    result = attend(kernels, query, maps(1, 9, 8), maps(1, 9, 8))
    assert result[0, 2].isnan().all()
    assert not result[0, [0, 1, 3]].isnan().any()


def test_other_layouts_and_threads_give_the_same_bits(kernels: Kernels) -> None:
    query, key, value = maps(7, 30, 12), maps(7, 25, 12, seed=1), maps(7, 25, 18, seed=2)
    expected, before = attend(kernels, query, key, value), torch.get_num_threads()
    strided = [x.mT.contiguous().mT for x in (query, key, value)]
    assert torch.equal(attend(kernels, *strided), expected)
    try:
        torch.set_num_threads(3)
        assert torch.equal(attend(kernels, query, key, value), expected)
    finally:
        torch.set_num_threads(before)
