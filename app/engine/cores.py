"""How many cores this process may use.

The host's core count is not the answer in a container: the affinity mask and the cgroup's CPU
quota are. ONNX Runtime sizes its own pools from the host, so threads are always set from here.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

_PROC_ROOT: Final = Path("/proc")
_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
#: Where the v1 CPU controller is mounted, by distribution.
_V1_MOUNTS: Final = ("cpu", "cpu,cpuacct", "cpuacct,cpu")
#: Where v2 is mounted: alone, and beside v1.
_V2_MOUNTS: Final = ("", "unified")


@dataclass(frozen=True, slots=True)
class Cores:
    """`count` cores may be busy at once; at least 1."""

    count: int
    #: Cores that the scheduler may put this process on.
    affinity: int
    #: CPU seconds a second that the smallest enclosing cgroup allows; None for no limit.
    quota: float | None
    reason: str


def available_cores(
    proc_root: Path = _PROC_ROOT,
    cgroup_root: Path = _CGROUP_ROOT,
    affinity: Callable[[], int] | None = None,
) -> Cores:
    """The smaller of affinity and CPU quota. Files that are missing or odd set no limit.

    A quota is rounded down (1.5 is 1 core, 0.5 is 1 too): when more threads are busy than the
    quota pays for, the kernel stops all of them, the event loop among them, for the rest of the
    period. The fraction that is left is the event loop's.
    """
    allowed = max(1, (affinity or _affinity)())
    quota = _smallest_quota(proc_root, cgroup_root)
    if quota is None or quota >= allowed:
        return Cores(allowed, allowed, quota, f"{allowed} by CPU affinity")
    count = max(1, math.floor(quota))
    return Cores(count, allowed, quota, f"{count} by the cgroup's CPU quota of {quota:g}")


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # Not on macOS or Windows.
        return os.cpu_count() or 1


def _smallest_quota(proc_root: Path, cgroup_root: Path) -> float | None:
    """Every enclosing group limits the process, so the smallest quota on the way up counts."""
    v1_group, v2_group = _own_groups(proc_root)
    quotas = [_v1_quota(folder) for folder in _folders(cgroup_root, _V1_MOUNTS, v1_group)]
    quotas += [_v2_quota(folder) for folder in _folders(cgroup_root, _V2_MOUNTS, v2_group)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _own_groups(proc_root: Path) -> tuple[str, str]:
    """The v1 CPU group and the v2 group of this process, "/" where it says nothing."""
    v1_group = v2_group = "/"
    for line in _read(proc_root / "self" / "cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if "cpu" in controllers.split(","):
            v1_group = group
        elif hierarchy == "0" and not controllers:
            v2_group = group
    return v1_group, v2_group


def _folders(cgroup_root: Path, mounts: tuple[str, ...], group: str) -> Iterator[Path]:
    """The group's folder and its parents, up to the mount.

    In a container the group's name is often the host's, and only the mount itself is visible: it
    then is the process's own group, and the deeper folders do not exist.
    """
    parts = [part for part in PurePosixPath(group).parts if part != "/"]
    if ".." in parts:
        parts = []
    for mount in mounts:
        for depth in range(len(parts), -1, -1):
            yield cgroup_root.joinpath(mount, *parts[:depth])


def _v1_quota(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _v2_quota(folder: Path) -> float | None:
    quota_us, _, period_us = _read(folder / "cpu.max").strip().partition(" ")
    return _ratio(quota_us, period_us)


def _ratio(quota_us: str, period_us: str) -> float | None:
    """CPUs, or None for no limit ("-1" in v1, "max" in v2) and for what is not a number."""
    try:
        quota, period = int(quota_us), int(period_us)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
