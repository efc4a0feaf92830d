from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.api.asgi import AsgiTransport
from tests.api.lane import LaneTransport
from tests.api.live import LiveServer
from tests.api.repository import publish_all

MakeClient = Callable[..., httpx.Client]
#: Ways in which bytes reach the handler; every test with a `client` runs on each of them.
TRANSPORTS = ("asgi", "lane")
BASE_URL = "http://modelport.test"
#: What the shared service runs with; a test that needs other settings makes its own.
SETTINGS = {"loaded_versions": 2, "max_request_rows": 64, "max_body_bytes": 200_000}


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `tests.api.repository`; it is never changed."""
    root = tmp_path_factory.mktemp("repository")
    publish_all(root)
    return root


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def connect(transport: str) -> Callable[[ExitStack, Settings], httpx.Client]:
    """Start a service with settings and give a client of it, over the transport under test."""

    def over_asgi(stack: ExitStack, settings: Settings) -> httpx.Client:
        way = AsgiTransport(create_app(settings))
        return stack.enter_context(httpx.Client(transport=way, base_url=BASE_URL))

    def over_lane(stack: ExitStack, settings: Settings) -> httpx.Client:
        way = LaneTransport(settings)
        return stack.enter_context(httpx.Client(base_url=BASE_URL, transport=way))

    return {"asgi": over_asgi, "lane": over_lane}[transport]


@pytest.fixture(scope="session")
def client(
    connect: Callable[[ExitStack, Settings], httpx.Client], repository: Path
) -> Iterator[httpx.Client]:
    """A client of the shared service."""
    with ExitStack() as stack:
        yield connect(stack, Settings(models=repository, provider=("cpu",), **SETTINGS))


@pytest.fixture
def make_client(
    connect: Callable[[ExitStack, Settings], httpx.Client], repository: Path
) -> Iterator[MakeClient]:
    """A client of a service of the test's own: `make_client(**settings)`."""
    with ExitStack() as stack:

        def make(**settings: object) -> httpx.Client:
            given = {"models": repository, "provider": ("cpu",)} | SETTINGS | settings
            return connect(stack, Settings(**given))

        yield make


@pytest.fixture(scope="session")
def live(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The shared service as a process, for what only a socket can say."""
    log = tmp_path_factory.mktemp("live") / "server.log"
    given = SETTINGS | {"body_timeout_s": 0.5, "default_model": "affine"}
    with LiveServer(repository, log, **given) as server:
        yield server
