"""Memory that is used again while somebody keeps it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from sruplift.kernels.spare import LOOSE, MOST, Spare


def test_what_is_given_back_is_taken_again_while_it_is_kept() -> None:
    spare = Spare()
    with spare.kept():
        first = spare.take(1000)
        other = spare.take(1000)
        assert first.data_ptr() != other.data_ptr()
        assert (first.dtype, len(first)) == (torch.int32, 1000)
        spare.give(first)
        assert spare.take(900) is first
        assert spare.take(900) is not other  # Nobody has given that back.


def test_the_closest_that_fits_is_taken() -> None:
    spare = Spare()
    with spare.kept():
        small, fit, large = (spare.take(count) for count in (999, 1200, int(LOOSE * 1000) + 1))
        for block in (small, large, fit):
            spare.give(block)
        assert spare.take(1000) is fit
        fresh = spare.take(1000)
        assert fresh is not small
        assert fresh is not large


def test_with_the_last_who_keeps_it_it_goes() -> None:
    spare = Spare()
    with spare.kept():
        block = spare.take(10)
        with spare.kept():
            spare.give(block)
        assert spare.take(10) is block  # One of two still keeps it.
        spare.give(block)
    for _ in range(2):
        assert spare.take(10) is not block
        spare.give(block)  # Nobody keeps it.
    with pytest.raises(ZeroDivisionError), spare.kept():
        1 / 0  # noqa: B018
    spare.give(block)
    assert spare.take(10) is not block


def test_only_so_many_wait() -> None:
    spare = Spare()
    with spare.kept():
        blocks = [spare.take(10) for _ in range(MOST + 3)]
        for block in blocks:
            spare.give(block)
        taken = [spare.take(10) for _ in range(MOST + 3)]
    assert sum(any(each is block for block in blocks) for each in taken) == MOST


def test_what_waits_goes_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    module, short = Spare(), []

    def new(count: int) -> torch.Tensor:
        if count == 100 and not short:
            short.append(count)
            raise RuntimeError("not enough memory")
        return torch.empty(count, dtype=torch.int32)

    monkeypatch.setattr("sruplift.kernels.spare._new", new)
    with module.kept():
        small = module.take(10)
        module.give(small)
        assert len(module.take(100)) == 100
        assert short
        assert module.take(10) is not small


@pytest.fixture
def interrupted() -> Iterator[None]:
    """Threads take turns after a few instructions, not after milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("interrupted")
def test_no_two_threads_have_the_same_memory() -> None:
    spare, wrong = Spare(), []

    def work(number: int) -> None:
        for _ in range(300):
            blocks = [spare.take(64) for _ in range(3)]
            for block in blocks:
                block.fill_(number)
            wrong.extend(block for block in blocks if not bool((block == number).all()))
            for block in blocks:
                spare.give(block)

    with spare.kept():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
