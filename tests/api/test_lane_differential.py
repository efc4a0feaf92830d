"""The fast lane against the application itself: the same bytes get the same answers.

Both servers are the same but for `MODELPORT_FAST_LANE`. Made-up conversations, each over one
connection, are sent to both in the same pieces; every answer is compared, and where the connection
ends.
"""

import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

import pytest

from app.settings import Settings
from tests.api.conftest import SETTINGS
from tests.api.conversations import Conversation, conversation
from tests.api.lane import LaneTransport
from tests.api.live import PATIENCE_S

_EXCHANGES = 2_000
#: Of the slow test.
_MANY_EXCHANGES = int(os.environ.get("LANE_EXCHANGES", "100000"))
#: An id that the service gave, not the caller.
_ID = re.compile(rb"[0-9a-f]{12}-[0-9a-f]+")
_DATE = re.compile(rb"date: [^\r]+\r\n")
_REFUSAL = re.compile(rb"HTTP/1\.1 [45]\d\d .*?\r\n\r\n", re.DOTALL)
_LENGTH = re.compile(rb"(?<=content-length: )\d+")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Sides = tuple[LaneTransport, LaneTransport]


@pytest.fixture(scope="module")
def sides(repository: Path) -> Iterator[Sides]:
    """With the fast lane, and without."""
    given = {"models": repository, "provider": ("cpu",), "default_model": "affine"} | SETTINGS
    with ExitStack() as stack:
        fast, slow = (
            stack.enter_context(LaneTransport(Settings(**given, fast_lane=is_fast)))
            for is_fast in (True, False)
        )
        yield fast, slow


def test_both_ways_answer_alike(sides: Sides) -> None:
    compare(sides, _EXCHANGES, first_seed=0)


@pytest.mark.slow
def test_both_ways_answer_alike_for_long(sides: Sides) -> None:
    compare(sides, _MANY_EXCHANGES, first_seed=1_000_000)


def compare(sides: Sides, exchanges: int, first_seed: int) -> None:
    """Have so many requests answered by both."""
    done, seed = 0, first_seed
    while done < exchanges:
        said = conversation(seed)
        fast, slow = (plain(answer) for answer in talk(sides, said))
        for at, (one, other) in enumerate(zip_longest(fast, slow)):
            assert one == other, f"seed {seed}, answer {at}: {said.requests}"
        done += len(fast)
        seed += 1
    for side in sides:
        wait_until_idle(side)


def talk(sides: Sequence[LaneTransport], said: Conversation) -> list[bytes]:
    """What each answers until it closes the connection."""
    with ExitStack() as stack:
        sockets = []
        for side in sides:
            one = stack.enter_context(socket.create_connection(side.address, PATIENCE_S))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            sockets.append(one)
        for number, piece in enumerate(said.pieces):
            if number:
                time.sleep(0.0002)  # so that most pieces are read one by one
            for one in sockets:
                one.sendall(piece)
        return [b"".join(iter(lambda one=one: one.recv(2**18), b"")) for one in sockets]


def plain(answers: bytes) -> list[bytes]:
    """All that must be equal, answer by answer."""
    text = _REFUSAL.sub(_without_its_id, answers.replace(_CONTINUE, b""))
    return re.split(rb"(?=HTTP/1\.1 \d)", _DATE.sub(b"", _ID.sub(b"ID", text)))[1:]


def _without_its_id(head: re.Match[bytes]) -> bytes:
    """An id is in the body too, and grows with the number of requests."""
    own = _ID.search(head[0])
    extra = len(own[0]) if own else 0
    return _LENGTH.sub(lambda length: b"%d" % (int(length[0]) - extra), head[0])


def wait_until_idle(side: LaneTransport) -> None:
    """No connection is left, and no body is counted."""
    deadline = time.monotonic() + PATIENCE_S
    while side.ask(len) or side.service.handler._pending_body_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.02)
