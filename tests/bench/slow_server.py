"""A server on a thread that answers in turn, with a pause before some of its answers."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def answering(answer: Callable[[int], bytes | None]) -> Iterator[tuple[str, int]]:
    """Serves one connection after the other.

    Args:
        answer: from the number of the request; None closes the connection instead.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, answer))
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _serve(listener: socket.socket, answer: Callable[[int], bytes | None]) -> None:
    count = 0
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            try:
                while client.recv(65536):
                    reply = answer(count)
                    count += 1
                    if reply is None:
                        break
                    client.sendall(reply)
            except OSError:
                continue


def stalling(at: int, seconds: float) -> Callable[[int], bytes]:
    """One answer takes long, all others none."""

    def answer(count: int) -> bytes:
        if count == at:
            time.sleep(seconds)
        return OK

    return answer
