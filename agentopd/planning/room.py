"""How much memory there is, and how bytes are written for people."""

import os
from pathlib import Path

import torch

GIB = 2**30


def shown(size: float) -> str:
    """So many bytes, in a unit that a person reads."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 2**10:.1f} KiB"


def available() -> float:
    """Bytes that a process could still take: of the GPU where there is one, else of the machine, or of the share that it is given."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    limits = [_limit(Path("/sys/fs/cgroup/memory.max")), _limit(Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))]
    return min([_free(), *(limit for limit in limits if limit is not None)])


def _limit(file: Path) -> float | None:
    """What a container may take; ``None`` where it has no limit."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return float(text) if text.isdecimal() else None


def _free() -> float:
    """What the system says is available; where it does not say, all that it has."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * float(line.split()[1])
    except OSError:
        pass
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
