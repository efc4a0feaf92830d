"""A load generator on bare sockets and epoll, cheap enough not to be what is measured.

Requests are ready-made bytes; of an answer only the status line and the length are looked at, and
the first ones and every thousandth are kept whole, to be checked afterwards. In the closed loop
each connection asks again as soon as it is answered. In the open loop requests are due at fixed
times and their latency counts from then, also where no connection was free: a slow server cannot
hide its waiting line.
"""

import re
import select
import socket
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

_HEAD_END: Final = b"\r\n\r\n"
_CHUNK: Final = 1 << 16
_KEEP_EVERY: Final = 997
_KEPT: Final = 64
_KEPT_FIRST: Final = 16
_POLL_S: Final = 0.05
_WARM_POLL_S: Final = 0.01
_LONGEST_WARM_S: Final = 20.0
_LONGEST_S: Final = 20.0
_ENOUGH: Final = 64
#: After the end of the load, for what is still unanswered.
_LAST_ANSWERS_S: Final = 10.0
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


@dataclass
class Seen:
    """What a run of load saw, within its measured window. Times in seconds."""

    seconds: float = 0.0
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    #: Statuses other than 200; `closed` and `unanswered` for none.
    errors: Counter[str] = field(default_factory=Counter)
    #: Some whole answers, each with the index of its request.
    kept: list[tuple[int, bytes]] = field(default_factory=list)


def is_whole(data: bytes) -> bool:
    """Whether an answer is complete, by its length or its last chunk."""
    head = data.find(_HEAD_END)
    if head < 0:
        return False
    length = _LENGTH.search(data, 0, head + 2)
    if length is None:
        return data.endswith(b"0\r\n\r\n")
    return len(data) >= head + 4 + int(length[1])


class _Connection:
    __slots__ = ("began_s", "buffer", "fd", "is_asked", "recv", "send", "sock", "turn", "unsent")

    def __init__(self, address: tuple[str, int], turn: int) -> None:
        self.turn = turn
        self.began_s = 0.0
        self.open(address)

    def open(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, timeout=10.0)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.fd = self.sock.fileno()
        self.recv = self.sock.recv
        self.send = self.sock.send
        self.is_asked = False
        self.buffer = b""
        self.unsent = b""


class Load:
    """So many connections to a server, and the requests that they send in turn.

    Args:
        at_edge: called at the beginning and at the end of the measured window.
    """

    def __init__(
        self,
        address: tuple[str, int],
        requests: Sequence[bytes],
        connections: int,
        at_edge: Callable[[], None] = lambda: None,
    ) -> None:
        self._address = address
        self._requests = requests
        self._at_edge = at_edge
        self._seen = Seen()
        self._is_measuring = False
        self._began_s = 0.0
        #: Requests that were due before are not measured.
        self._since_s = 0.0
        self._answers = 0
        self._length_name = b""
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        for index in range(connections):
            self._watch(_Connection(address, index % len(requests)))

    def close(self) -> None:
        for connection in self._connections.values():
            connection.sock.close()
        self._epoll.close()

    def closed_loop(self, warm_s: float, seconds: float) -> Seen:
        """Measures after `warm_s`, and not before every connection can have had an answer: a slow
        server's waiting line has to be as long as it will be. `seconds` are as many more as it
        takes to see some answers."""
        started_s = time.perf_counter()
        for connection in list(self._connections.values()):
            self._ask(connection, time.perf_counter())
        ends_s = started_s + warm_s + _LONGEST_WARM_S
        while (now_s := time.perf_counter()) < ends_s:
            is_warm = self._answers >= len(self._connections) and now_s >= started_s + warm_s
            if is_warm and not self._is_measuring:
                self._begin()
                ends_s = self._began_s + _LONGEST_S
            if self._is_measuring and now_s >= self._began_s + seconds and self._saw_enough():
                break
            for connection in self._answered(_POLL_S if self._is_measuring else _WARM_POLL_S):
                self._ask(connection, time.perf_counter())
        if not self._is_measuring:
            raise ConnectionError(
                f"no {len(self._connections)} answers within {ends_s - started_s:.0f} s"
            )
        seen = self._end()
        self._let_finish()
        return seen

    def _let_finish(self) -> None:
        """Waits for what is under way: servers go on with what nobody waits for any more, and who
        is measured next would pay for it."""
        ends_s = time.perf_counter() + _LAST_ANSWERS_S
        self._is_measuring = False
        waited_for = len(self._connections)
        while waited_for and time.perf_counter() < ends_s:
            waited_for -= len(self._answered(_POLL_S))

    def _saw_enough(self) -> bool:
        seen = len(self._seen.latencies_s) + self._seen.errors.total()
        return seen >= min(len(self._connections), _ENOUGH)

    def open_loop(self, due_s: Sequence[float], warm_s: float, seconds: float) -> Seen:
        """Ask at times after the beginning; those after `warm_s` are measured."""
        idle = deque(self._connections.values())
        waiting: deque[float] = deque()
        schedule = deque(due_s)
        edges = deque([(warm_s, self._begin), (warm_s + seconds, self._end)])
        started_s = time.perf_counter()
        self._since_s = started_s + warm_s
        gives_up_s = warm_s + seconds + _LAST_ANSWERS_S
        while schedule or waiting or len(idle) < len(self._connections):
            after_s = time.perf_counter() - started_s
            if edges and after_s >= edges[0][0]:
                edges.popleft()[1]()
            if after_s >= gives_up_s:
                left = len(schedule) + len(waiting) + len(self._connections) - len(idle)
                self._seen.errors["unanswered"] += left
                break
            while schedule and schedule[0] <= after_s:
                waiting.append(started_s + schedule.popleft())
            while waiting and idle:
                self._ask(idle.popleft(), waiting.popleft())
            # epoll counts in milliseconds: what is due sooner than that is waited for awake.
            wait_s = min(schedule[0] - after_s, _POLL_S) if schedule else _WARM_POLL_S
            idle.extend(self._answered(wait_s - 0.001 if wait_s > 0.002 else 0.0))
        while edges:
            edges.popleft()[1]()
        self._seen.seconds = seconds
        return self._seen

    def _begin(self) -> None:
        self._at_edge()
        self._is_measuring = True
        self._began_s = time.perf_counter()

    def _end(self) -> Seen:
        self._seen.seconds = time.perf_counter() - self._began_s
        self._at_edge()
        return self._seen

    def _watch(self, connection: _Connection) -> None:
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)

    def _ask(self, connection: _Connection, due_s: float) -> None:
        turn = connection.turn + 1
        connection.turn = turn = 0 if turn == len(self._requests) else turn
        connection.began_s = due_s
        connection.is_asked = True
        request = self._requests[turn]
        try:
            sent = connection.send(request)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the end of the connection is seen by who reads it
        if sent < len(request):
            connection.unsent = request[sent:]
            self._epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    def _send_rest(self, connection: _Connection) -> None:
        try:
            connection.unsent = connection.unsent[connection.send(connection.unsent) :]
        except BlockingIOError:
            return
        except OSError:
            connection.unsent = b""
        if not connection.unsent:
            self._epoll.modify(connection.fd, select.EPOLLIN)

    def _answered(self, wait_s: float) -> list[_Connection]:
        """Waits, reads, and gives the connections that have their answer."""
        answered = []
        for fd, event in self._epoll.poll(wait_s):
            connection = self._connections[fd]
            if event & select.EPOLLOUT:
                self._send_rest(connection)
            if event == select.EPOLLOUT:
                continue
            try:
                data = connection.recv(_CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                if self._is_cut_off(connection):
                    answered.append(connection)
                continue
            if connection.buffer:
                data = connection.buffer + data
            if self._is_whole(data):
                connection.buffer = b""
                connection.is_asked = False
                self._note(connection, data)
                answered.append(connection)
            else:
                connection.buffer = data
        return answered

    def _is_whole(self, data: bytes) -> bool:
        """`is_whole`, quicker where the server spells its headers always alike."""
        head = data.find(_HEAD_END)
        place = data.find(self._length_name, 0, head) if self._length_name else -1
        if head < 0 or place < 0:
            found = _LENGTH.search(data)
            if found is not None:
                self._length_name = data[found.start() : found.start(1)]
            return is_whole(data)
        first = place + len(self._length_name)
        return len(data) >= head + 4 + int(data[first : data.find(b"\r", first)])

    def _note(self, connection: _Connection, answer: bytes) -> None:
        self._answers += 1
        if not self._is_measuring or connection.began_s < self._since_s:
            return
        seen = self._seen
        if answer[9:12] != b"200":
            seen.errors[answer[9:12].decode("latin-1")] += 1
            if len(seen.kept) < _KEPT:
                seen.kept.append((connection.turn, answer))
            return
        seen.latencies_s.append(time.perf_counter() - connection.began_s)
        kept = len(seen.kept)
        if kept < _KEPT and (kept < _KEPT_FIRST or not self._answers % _KEEP_EVERY):
            seen.kept.append((connection.turn, answer))

    def _is_cut_off(self, connection: _Connection) -> bool:
        """Opens a connection anew that the server closed; whether it owed an answer."""
        was_asked = connection.is_asked
        if was_asked and self._is_measuring:
            self._seen.errors["closed"] += 1
        self._epoll.unregister(connection.fd)
        del self._connections[connection.fd]
        connection.sock.close()
        connection.open(self._address)
        self._watch(connection)
        return was_asked
