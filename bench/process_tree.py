"""CPU time and memory of a process with all its descendants, from /proc (Linux)."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
#: Places in /proc/PID/stat, counted after the name in brackets.
_PARENT: Final = 1
_SESSION: Final = 3
_TIMES: Final = slice(11, 15)


@dataclass(frozen=True)
class Memory:
    """In MiB, summed over the processes; `pss` counts shared pages once, `rss` in each."""

    pss: float
    rss: float


def members(root: int) -> dict[int, list[str]]:
    """The process, its descendants, and what left the tree but not its session: /proc/PID/stat."""
    stats = dict(_stats())
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[_PARENT]), []).append(pid)
    found: dict[int, list[str]] = {}
    waiting = [root, *(pid for pid, fields in stats.items() if int(fields[_SESSION]) == root)]
    while waiting:
        pid = waiting.pop()
        if pid in stats and pid not in found:
            found[pid] = stats[pid]
            waiting += children.get(pid, [])
    return found


def _stats() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:  # it ended meanwhile
                continue
            yield int(entry.name), text.rpartition(")")[2].split()


def cpu_s(root: int) -> float:
    """User and system time of the whole tree, children that have ended included."""
    ticks = sum(int(t) for fields in members(root).values() for t in fields[_TIMES])
    return ticks / _TICKS_PER_S


def memory(root: int) -> Memory:
    pss = rss = 0
    for pid in members(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, rest = line.partition(":")
            if name == "Pss":
                pss += int(rest.split()[0])
            elif name == "Rss":
                rss += int(rest.split()[0])
    return Memory(pss / 1024, rss / 1024)


def pause(root: int) -> None:
    """Stop the tree where it is: some servers are busy while nobody asks them anything."""
    _tell(root, signal.SIGSTOP)


def resume(root: int) -> None:
    _tell(root, signal.SIGCONT)


def _tell(root: int, what: signal.Signals) -> None:
    for pid in members(root):
        with suppress(ProcessLookupError):
            os.kill(pid, what)
