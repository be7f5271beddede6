"""How much memory there is to work in: the machine's, the control group's, the device's."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

from sruplift import heap

# Where nothing can be learned about the memory, assume a small machine.
UNKNOWN = 2 * 1024**3
CGROUPS = Path("/sys/fs/cgroup")


def available_memory(device: torch.device) -> int:
    """Bytes that can be allocated on ``device`` now, other programs left in peace."""
    if device.type in ("cuda", "xpu"):
        module = torch.get_device_module(device)
        free, _ = module.mem_get_info(device)
        # What PyTorch holds but does not use is free for us too.
        return int(free + module.memory_reserved(device) - module.memory_allocated(device))
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    limits = [_machine_memory(), _control_group_memory()]
    return min((limit for limit in limits if limit is not None), default=UNKNOWN)


def resident_memory() -> int:
    """Bytes of main memory that this process has now, as far as the system tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0


class PeakMemory:
    """The most memory that was used on ``device`` since it was made, in bytes beyond what was then.

    On CPUs of the whole process, where the system tells (Linux).
    """

    def __init__(self, device: torch.device, status: Path = Path("/proc/self/status")) -> None:
        self.device, self.status = device, status
        self.module = torch.get_device_module(device) if device.type in ("cuda", "xpu") else None
        if self.module is not None:
            self.module.reset_peak_memory_stats(device)
            self.before = int(self.module.memory_allocated(device))
            return
        heap.give_back()  # or what is used again would not be seen
        with contextlib.suppress(OSError):
            # Linux sets the peak to what is used now.
            status.with_name("clear_refs").write_text("5")
        self.before = self._of_process("VmRSS") or 0

    def read(self) -> int | None:
        """Bytes; None where nobody knows."""
        if self.module is not None:
            return int(self.module.max_memory_allocated(self.device)) - self.before
        peak = self._of_process("VmHWM")
        return None if peak is None or not self.before else max(peak - self.before, 0)

    def _of_process(self, name: str) -> int | None:
        try:
            for line in self.status.read_text().splitlines():
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        return None


def _machine_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """``MemAvailable`` on Linux, half of the memory elsewhere, ``None`` where neither is known."""
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _control_group_memory(
    membership: Path = Path("/proc/self/cgroup"), groups: Path = CGROUPS
) -> int | None:
    """What the tightest control group (version 2, then 1) above this process leaves, if any."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = groups / controllers
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        if not controllers:
            names = ("memory.max", "memory.current")
        # Inside a container the name may be the host's: the root is looked at in any case.
        folder = root / name.strip("/")
        for group in (folder, *folder.parents):
            if group == groups.parent:
                break
            limits.append(_headroom(group / names[0], group / names[1]))
    return min((limit for limit in limits if limit is not None), default=None)


def _headroom(limit_file: Path, usage_file: Path) -> int | None:
    try:
        limit = limit_file.read_text().strip()
        return None if limit == "max" else max(int(limit) - int(usage_file.read_text()), 0)
    except (OSError, ValueError):
        return None
