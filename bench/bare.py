"""`python -m bench.bare PORT`: an ASGI application that reads the body and answers a constant.

On uvicorn with uvloop and httptools: the least that an HTTP server in Python costs.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvicorn

#: As long as an answer with ten scores.
_BODY: Final = b'{"scores":[' + b",".join([b"0.12345678"] * 10) + b"]}"
_START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(_BODY)).encode()),
    ],
}
_END: Final = {"type": "http.response.body", "body": _BODY}


async def application(
    _: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    while (await receive()).get("more_body", False):
        pass
    await send(_START)
    await send(_END)


def main() -> None:
    uvicorn.run(
        application,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
