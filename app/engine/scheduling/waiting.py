"""Requests that wait for a run, and which of them go together."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from app.bundle.tensors import Array, Tensors
from app.errors import ModelportError

logger = logging.getLogger(__name__)

#: Called once on the event loop with the request's own output rows, or its own error.
Done = Callable[[Mapping[str, Array] | ModelportError], None]

#: Most bytes that are copied together for one run; a larger request runs alone, uncopied.
MAX_JOINED_BYTES: Final = 64 * 2**20


@dataclass(eq=False, slots=True)
class Entry:
    """One request, or one part of a large one; `cancel` it when the caller leaves.

    Attributes:
        size_bytes: of its inputs, about.
        deadline_s: on the event loop's clock.
        group_key: equal where requests may share a run.
        follower: a later part of the same request, which queues up when this one's turn has come.
        queued: it waits, in line or as a follower.
    """

    inputs: Tensors
    rows: int
    size_bytes: int
    deadline_s: float | None
    done: Done
    group_key: object
    _abandon: Callable[["Entry"], None]
    submitted_s: float = field(default_factory=time.monotonic)
    follower: "Entry | None" = None
    lined_up_s: float = 0.0
    queued: bool = True
    settled: bool = False

    def cancel(self) -> None:
        """Forget the request; its batch-mates are not affected. `done` is not called."""
        self._abandon(self)

    def settle(self, outcome: Mapping[str, Array] | ModelportError) -> None:
        if self.settled:
            return
        done = self.done
        self.settled = True
        self.done = _nobody
        try:
            done(outcome)
        except Exception:
            logger.exception("a caller's completion callback raised")

    def forget(self) -> None:
        """Let go of the caller, who holds this: nothing is left for the garbage collector."""
        self.settled = True
        self.done = _nobody


def _nobody(outcome: Mapping[str, Array] | ModelportError) -> None:
    """Who is told of what is settled already."""


@dataclass(eq=False, slots=True)
class Batch:
    """Requests that run together; `late` are those that came up too late to do so."""

    entries: list[Entry] = field(default_factory=list)
    late: list[Entry] = field(default_factory=list)
    rows: int = 0
    size_bytes: int = 0

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.rows += entry.rows
        self.size_bytes += entry.size_bytes


class Waiting:
    """What waits in one batcher, by what may share a run; the group that waits longest is first.

    Requests that leave are taken out at once, wherever they stand: nobody looks here while all
    workers are busy. Followers count as waiting, but stand in no line yet.

    Args:
        max_rows: most rows of a batch that joins requests.
        join_requests: whether requests may share a run.
        all_alike: whether all requests have the same trailing shapes and dtypes.

    Attributes:
        rows, size_bytes, count: of all that waits.
    """

    def __init__(self, max_rows: int, *, join_requests: bool, all_alike: bool = False) -> None:
        self._max_rows = max_rows
        self._join_requests = join_requests
        self.is_one_group = all_alike or not join_requests
        #: In each, requests in their order; groups in the order of their heads' arrival.
        self._groups: dict[object, OrderedDict[Entry, None]] = {}
        self._followers: set[Entry] = set()
        self.rows = 0
        self.size_bytes = 0
        self.count = 0

    def __bool__(self) -> bool:
        return self.count > 0

    def entries(self) -> list[Entry]:
        return [*(e for group in self._groups.values() for e in group), *self._followers]

    def key(self, inputs: Tensors) -> object:
        """Equal for requests that may share a run: same names, trailing shapes and dtypes."""
        if self.is_one_group:
            return None
        return tuple([(name, a.shape[1:], a.dtype.str) for name, a in sorted(inputs.items())])

    def add(self, entry: Entry, *, behind: Entry | None = None) -> None:
        """Let an entry wait, in line or until the turn of the one `behind` which it comes."""
        self.rows += entry.rows
        self.size_bytes += entry.size_bytes
        self.count += 1
        if behind is None:
            entry.lined_up_s = entry.submitted_s
            group = self._groups.get(entry.group_key)
            if group is None:
                group = self._groups[entry.group_key] = OrderedDict()
            group[entry] = None
        else:
            behind.follower = entry
            self._followers.add(entry)

    def _line_up(self, entry: Entry, now_s: float) -> None:
        entry.lined_up_s = now_s
        group = self._groups.get(entry.group_key)
        if group is None:
            group = self._groups[entry.group_key] = OrderedDict()
        group[entry] = None

    def remove(self, entry: Entry) -> None:
        """Take it out; does nothing to one that runs or has run."""
        if not entry.queued:
            return
        self._forget(entry)
        if entry in self._followers:
            self._followers.remove(entry)
            return
        group = self._groups[entry.group_key]
        del group[entry]
        if not group:
            del self._groups[entry.group_key]
        if entry.follower is not None:
            self._let_follow(entry)

    def _forget(self, entry: Entry) -> None:
        entry.queued = False
        self.rows -= entry.rows
        self.size_bytes -= entry.size_bytes
        self.count -= 1

    def _let_follow(self, entry: Entry) -> None:
        follower = entry.follower
        if follower is not None and follower.queued:
            self._followers.remove(follower)
            # Behind all who came meanwhile: a large request leaves room for small ones.
            self._line_up(follower, time.monotonic())

    def next_rows(self, more: int = 0) -> int:
        """Rows of the batch that would be taken now, if all that waits can share a run.

        Args:
            more: rows of a request that would come.
        """
        if self._join_requests:
            return min(self.rows + more, self._max_rows)
        return next((entry.rows for group in self._groups.values() for entry in group), more)

    def take(self, now_s: float) -> Batch:
        """The first requests of the group that waits longest, as many as fit in a run."""
        batch = Batch()
        groups = self._groups
        while groups and not batch.entries:
            first = min(groups.values(), key=_head_lined_up_s) if len(groups) > 1 else None
            self._take_from(first or next(iter(groups.values())), now_s, batch)
        return batch

    def _take_from(self, group: OrderedDict[Entry, None], now_s: float, batch: Batch) -> None:
        while group:
            entry = next(iter(group))
            late = entry.deadline_s is not None and entry.deadline_s <= now_s
            if batch.entries and not late and not self._fits(batch, entry):
                return
            del group[entry]
            entry.queued = False
            self.rows -= entry.rows
            self.size_bytes -= entry.size_bytes
            self.count -= 1
            if entry.follower is not None:
                self._let_follow(entry)
            if not group:
                del self._groups[entry.group_key]
            if late:
                batch.late.append(entry)
            else:
                batch.add(entry)

    def _fits(self, batch: Batch, entry: Entry) -> bool:
        return (
            self._join_requests
            and batch.rows + entry.rows <= self._max_rows
            and batch.size_bytes + entry.size_bytes <= MAX_JOINED_BYTES
        )


def _head_lined_up_s(group: OrderedDict[Entry, None]) -> float:
    return next(iter(group)).lined_up_s


def tensors_bytes(inputs: Tensors) -> int:
    """Bytes that arrays hold, about: of strings, their characters and the pointers to them."""
    size = 0
    for array in inputs.values():
        size += array.nbytes
        if array.dtype.hasobject:
            size += sum(map(len, array.ravel()))
    return size
