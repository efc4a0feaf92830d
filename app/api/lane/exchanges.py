"""What a connection owes an answer for, in the order of the requests."""

from collections.abc import Callable
from typing import Any, Final

from app.api.handler import Handler
from app.api.head import Head, too_large
from app.api.reply import Reply
from app.api.ticket import Ticket
from app.api.together import Together
from app.errors import ModelportError, RequestError

#: Pieces of a body that are kept as they are: many small ones would take more room than the body.
_MOST_CHUNKS: Final = 64


class Direct:
    """A request that is answered here. Its body comes in pieces, its reply at any time.

    Attributes:
        ticket: where it was let in; none any more when it is answered.
        keep_alive: the connection stays open after the answer.
        expects: the caller waits for a word before it sends the body.
        whole: all of the request has come.
    """

    reply: Reply | None = None
    ticket: Ticket | None = None
    #: Its head, where it is let in only when its body has come too.
    deferred: Head | None = None
    _deferred_bytes = 0
    expects = False
    whole = False
    _size = 0
    #: What came behind the chunks that are kept as they are.
    _behind: bytearray | None = None

    def __init__(self, advance: Callable[[], None], keep_alive: bool) -> None:
        self._advance = advance
        self.keep_alive = keep_alive
        self._chunks: list[bytes] = []

    def answer(self, reply: Reply) -> None:
        """Once; the connection sends it when its turn has come."""
        self.ticket = None
        self.reply = reply
        if reply.close:
            self.keep_alive = False
        self._advance()

    def receive(self, chunk: bytes, most_bytes: int) -> None:
        """Take a piece of the body; nothing happens to one that was answered already."""
        ticket = self.ticket
        if ticket is None:
            if self.deferred is not None:
                self._chunks.append(chunk)
            return
        if ticket.is_announced:
            # The parser lets through no more than was announced, and that was judged.
            self._keep(chunk)
            return
        self._size += len(chunk)
        try:
            if self._size > most_bytes:
                raise too_large(most_bytes)
            ticket.grow(self._size)
        except RequestError as error:
            self.refuse(error)
            return
        self._keep(chunk)

    def _keep(self, chunk: bytes) -> None:
        chunks = self._chunks
        if len(chunks) < _MOST_CHUNKS:
            chunks.append(chunk)
            return
        if self._behind is None:
            self._behind = bytearray()
        self._behind += chunk

    def defer(self, head: Head, body_bytes: int) -> None:
        """Let it in when its body has come, which is announced to be so long."""
        self.deferred, self._deferred_bytes = head, body_bytes

    def finish_together(self, together: Together) -> bool:
        """Where all of a body has come at once; false for one that goes the usual way."""
        head, chunks = self.deferred, self._chunks
        if head is None or len(chunks) != 1 or not together.take(head, chunks[0], self.answer):
            return False
        self.deferred = None
        self.whole = True
        self._chunks = []
        return True

    def let_in(self, handler: Handler) -> None:
        """Do now what was deferred."""
        head, self.deferred = self.deferred, None
        if head is None:
            return
        admitted = handler.enter(head, self._deferred_bytes)
        if isinstance(admitted, Reply):
            self._chunks = []
            self.answer(admitted)
        else:
            self.ticket = admitted

    def finish(self) -> None:
        """All of the body has come."""
        self.whole = True
        ticket = self.ticket
        if ticket is not None:
            chunks = self._chunks
            body = chunks[0] if len(chunks) == 1 else b"".join((*chunks, self._behind or b""))
            self._forget()
            ticket.finish(body, self.answer)

    def _forget(self) -> None:
        self._chunks = []
        self._behind = None

    def refuse(self, error: ModelportError) -> None:
        """Answer that it will not be done; nothing happens to one that was answered already."""
        self._forget()
        if self.ticket is not None:
            self.ticket.refuse(error, self.answer)

    def leave(self) -> None:
        """The caller is gone."""
        ticket, self.ticket = self.ticket, None
        self._advance = _nothing
        if ticket is not None:
            ticket.cancel()


class Ordinary:
    """A request that the ASGI application answers, when all before it are answered."""

    __slots__ = ("_start", "cycle", "started")

    def __init__(self, cycle: Any, start: Callable[[], None]) -> None:
        self.cycle = cycle
        self._start = start
        self.started = False

    @property
    def keep_alive(self) -> bool:
        return bool(self.cycle.keep_alive)

    @keep_alive.setter
    def keep_alive(self, keep: bool) -> None:
        self.cycle.keep_alive = keep

    @property
    def whole(self) -> bool:
        return not self.cycle.more_body

    def start(self) -> None:
        if not self.started:
            self.started = True
            self._start()

    def leave(self) -> None:
        """The caller is gone."""
        if not self.cycle.response_complete:
            self.cycle.disconnected = True
        self.cycle.message_event.set()


Exchange = Direct | Ordinary


def _nothing() -> None:
    pass
