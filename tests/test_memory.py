"""What the system's own files say about memory, read from files like them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sruplift import memory


def test_the_cpu_has_some_memory() -> None:
    assert available_in_sane_range(memory.available_memory(torch.device("cpu")))


def available_in_sane_range(size: int) -> bool:
    return 2**20 < size < 2**50


def test_mem_available_is_read(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9 kB\nMemAvailable:    1234 kB\nBuffers: 1 kB\n")
    assert memory._machine_memory(meminfo) == 1234 * 1024


def test_without_meminfo_half_of_the_memory_counts(tmp_path: Path) -> None:
    found = memory._machine_memory(tmp_path / "none")
    assert found is None or available_in_sane_range(found)


@pytest.mark.parametrize("line", ["0::/a/b", "0::/elsewhere/on/the/host"])
def test_the_tightest_control_group_counts(tmp_path: Path, line: str) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text(line + "\n")
    groups = tmp_path / "groups"
    (groups / "a" / "b").mkdir(parents=True)
    for folder, limit, usage in [
        (groups, 900, 100),
        (groups / "a", 500, 450),
        (groups / "a/b", 400, 0),
    ]:
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{usage}\n")
    expected = 50 if line == "0::/a/b" else 800
    assert memory._control_group_memory(membership, groups) == expected


def test_a_group_without_limit_counts_as_none(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert memory._control_group_memory(membership, tmp_path) is None


def test_version_1_groups_are_read(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("5:cpu,cpuacct:/x\n3:memory:/x\n")
    group = tmp_path / "groups" / "memory" / "x"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("1000")
    (group / "memory.usage_in_bytes").write_text("1400")
    assert memory._control_group_memory(membership, tmp_path / "groups") == 0


def test_the_peak_is_what_was_used_beyond_before() -> None:
    peak = memory.PeakMemory(torch.device("cpu"))
    if peak.read() is None:
        pytest.skip("this system does not tell a process's peak")
    size = 64 * 2**20
    block = torch.ones(size, dtype=torch.uint8)
    del block
    used = peak.read()
    assert used is not None
    assert size // 2 < used < 4 * size
    # A new one begins again.
    again = memory.PeakMemory(torch.device("cpu")).read()
    assert again is not None
    assert again < size // 2


def test_without_the_systems_help_nobody_knows_the_peak(tmp_path: Path) -> None:
    assert memory.PeakMemory(torch.device("cpu"), tmp_path / "status").read() is None
