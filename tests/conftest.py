"""Fixtures of the whole suite."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.api.live import LiveServer

# The service's own environment has no torch; what needs it is not even looked at there.
collect_ignore = [] if importlib.util.find_spec("torch") else ["training"]

StartServer = Callable[..., LiveServer]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start the service as a child: `start_server(repository, **settings)`; ended with the test."""
    with ExitStack() as servers:

        def start(repository: Path, **settings: object) -> LiveServer:
            log = tmp_path / f"server-{len(list(tmp_path.iterdir()))}.log"
            return servers.enter_context(LiveServer(repository, log, **settings))

        yield start
