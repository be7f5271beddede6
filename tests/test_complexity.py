"""Mult-Adds: what is known of each network, what PyTorch counts, and what the papers print."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sruplift.complexity import (
    DIFFERENCES,
    Complexity,
    MultAdds,
    count_mult_adds,
    measure_complexity,
    measure_every_network,
)
from sruplift.models import MODELS, create_model, hpinet
from sruplift.models.maffsrn import WeightNormConv
from sruplift.published import PublishedSize, find_published_size

# In G for an output of 1280x720 pixels, counted by hand from the authors' code: convolutions.
CONVOLUTION = {
    "pan": {2: 70.519, 3: 38.985, 4: 28.164},
    "a2n": {2: 247.466, 3: 117.506, 4: 72.400},
    "maffsrn": {2: 86.072, 3: 39.861, 4: 23.773},
    "maffsrn-l": {2: 168.936, 3: 76.631, 4: 44.488},
    "srram": {2: 215.654, 3: 115.425, 4: 89.082},
    "srram-l": {2: 1140.115},
}
# Likewise, with linear layers and attention.
WITH_ATTENTION = {
    "hpinet-s": {2: (41.06, 67.37, 156.09), 3: (26.13, 30.33, 70.27), 4: (24.28, 17.22, 40.41)},
    "hpinet-m": {2: (79.78, 130.09, 214.64), 3: (50.60, 58.56, 96.63), 4: (47.00, 33.25, 55.56)},
    "hpinet-l": {2: (120.90, 229.92, 281.59), 3: (73.38, 103.23, 126.47), 4: (65.39, 58.50, 72.49)},
}
NETWORKS = [(name, scale) for name, spec in MODELS.items() for scale in spec.scales]
Measured = dict[tuple[str, int], Complexity]
every_network = pytest.mark.parametrize(("name", "scale"), NETWORKS)


@pytest.fixture(scope="module")
def measured() -> Measured:
    return {(one.model, one.scale): one for one in measure_every_network()}


def giga(count: int, digits: int) -> float:
    return round(count / 1e9, digits)


@pytest.mark.parametrize("name", CONVOLUTION)
def test_convolutions_are_as_counted_by_hand(name: str, measured: Measured) -> None:
    work = {scale: measured[name, scale].mult_adds for scale in MODELS[name].scales}
    assert {scale: giga(one.convolution, 3) for scale, one in work.items()} == CONVOLUTION[name]
    linear = 6_720 if name == "a2n" else 0  # 16 blocks of 40 x 10 + 10 x 2
    assert {(one.linear, one.attention) for one in work.values()} == {(linear, 0)}


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_attention_is_as_counted_by_hand(name: str, measured: Measured) -> None:
    work = {scale: measured[name, scale].mult_adds for scale in MODELS[name].scales}
    found = {
        scale: tuple(giga(count, 2) for count in (one.convolution, one.linear, one.attention))
        for scale, one in work.items()
    }
    assert found == WITH_ATTENTION[name]


@every_network
def test_nothing_that_multiplies_is_missed(name: str, scale: int) -> None:
    """PyTorch's counter sees the operators below the functions that ours sees."""
    with torch.device("meta"):
        network, lr = create_model(name, scale).eval(), torch.empty(1, 3, 61, 45)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(lr)
    assert 2 * count_mult_adds(network, 61, 45).total == counter.get_total_flops()


@pytest.mark.parametrize("name", ["maffsrn", "hpinet-s"])
def test_a_network_that_computes_has_the_same_count(name: str) -> None:
    with torch.device("meta"):
        meta = create_model(name, 2).eval()
    network = create_model(name, 2).eval()
    assert count_mult_adds(network, 30, 33) == count_mult_adds(meta, 30, 33)


def test_an_image_that_is_mirrored_costs_what_the_larger_one_does() -> None:
    network = create_model("hpinet-s", 2).eval()
    assert count_mult_adds(network, 5, 30) == count_mult_adds(network, 24, 30)


def test_every_network_is_measured_at_every_scale(measured: Measured) -> None:
    assert list(measured) == NETWORKS
    assert measured["maffsrn-l", 3].parameters == 807_134
    assert measured["hpinet-l", 4].parameters == 1_435_587
    assert {one.lr_size for (_, scale), one in measured.items() if scale == 3} == {(240, 426)}


def test_unknown_networks() -> None:
    with pytest.raises(ValueError, match="unknown model"):
        measure_complexity("nosuch", 2)


class TestNotes:
    def test_figures_that_round_to_the_papers_need_none(self) -> None:
        paper = PublishedSize(1, 2.5, "a table")
        work = MultAdds(2_000_000_000, 400_000_000, 60_000_000)
        assert Complexity("maffsrn", 2, (1, 1), 1_400, work, paper).notes == ()
        assert len(Complexity("maffsrn", 2, (1, 1), 1_600, work, paper).notes) == 1
        assert len(Complexity("maffsrn", 2, (1, 1), 1_600, MultAdds(), paper).notes) == 2
        assert Complexity("maffsrn", 2, (1, 1), 1_600, work, None).notes == ()

    def test_every_reason_is_needed(self, measured: Measured) -> None:
        used = {note for one in measured.values() for note in one.notes}
        assert used == set(DIFFERENCES.values())

    @pytest.mark.parametrize(
        ("name", "scale", "without"),
        [
            ("maffsrn", 2, 77.202),
            ("maffsrn", 3, 34.257),
            ("maffsrn", 4, 19.299),
            ("maffsrn-l", 2, 154.404),
            ("maffsrn-l", 4, 38.599),
        ],
    )
    def test_maffsrn_without_weight_normalised_layers(
        self, name: str, scale: int, without: float, measured: Measured
    ) -> None:
        complexity = measured[name, scale]
        height, width = complexity.lr_size
        layers = [
            one for one in create_model(name, scale).modules() if isinstance(one, WeightNormConv)
        ]
        normalised = sum(one.weight_v.numel() for one in layers) * height * width
        count = giga(complexity.mult_adds.total - normalised, 3)
        printed = find_published_size(name, scale)
        assert count == without
        assert printed is not None
        assert printed.mult_adds_g == pytest.approx(count, abs=0.06)

    @pytest.mark.parametrize(("scale", "thousands"), [(2, 942), (3, 1127), (4, 1090)])
    def test_srram_with_three_last_convolutions(
        self, scale: int, thousands: int, measured: Measured
    ) -> None:
        last = 3 * 64 * 9 + 3
        count = measured["srram", scale].parameters + 2 * last
        printed = find_published_size("srram", scale)
        assert printed is not None
        assert round(count / 1000) == printed.parameters_k == thousands

    def test_hpinet_with_patches_side_by_side(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hpinet, "PATCH_OVERLAP", 0)
        work = measure_complexity("hpinet-m", 4).mult_adds
        parts = [giga(count, 2) for count in (work.convolution, work.linear, work.attention)]
        assert parts == [47.00, 26.01, 44.55]
        assert giga(work.total, 1) == 117.6


def test_sizes_that_papers_do_not_print() -> None:
    assert find_published_size("hpinet-s", 2) is None
    assert find_published_size("nosuch", 2) is None
    assert find_published_size("srram-l", 2) == PublishedSize(4993, None, "SRRAM Table 3")
