import asyncio
import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from app.bundle.store import Bundle
from app.engine.candidates import CPU_PROVIDER, Candidate
from app.engine.providers import Discovery, discover
from tests.support.bundles import make_bundle

#: Nothing here takes a second; what is not over by then hangs.
HANG_S = 60.0


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward, so that no test sleeps."""

    skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_s

    def skip(self, seconds: float) -> None:
        self.skipped_s += seconds


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an `async def` test on a `SkippingLoop` of its own; one that hangs fails."""

    @functools.wraps(test)
    def run_test(*args: Any, **kwargs: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(HANG_S):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=SkippingLoop) as runner:
            runner.run(limited())

    return run_test


def skip(seconds: float) -> None:
    """Put the running loop's clock forward."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    loop.skip(seconds)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something is so."""
    while not condition():  # noqa: ASYNC110 (what is waited for often happens on a thread)
        await asyncio.sleep(0.0005)


@pytest.fixture(scope="session")
def discovery() -> Discovery:
    """What is installed here; plug-in libraries stay registered for the whole run."""
    return discover()


@pytest.fixture
def cpu() -> Candidate:
    return Candidate(CPU_PROVIDER, "cpu")


@pytest.fixture
def bundle_of(tmp_path: Path) -> Callable[..., Bundle]:
    """Publish a fixture model: `bundle_of("affine", **make_bundle's arguments)`."""

    def publish(model: str = "affine", **arguments: Any) -> Bundle:
        return make_bundle(tmp_path, model, model, **arguments)

    return publish


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with a `plugin` runs once for each plug-in provider that lists a device here."""
    if "plugin" in metafunc.fixturenames:
        plugins = [c for c in discover().candidates if c.origin == "plug-in"]
        none = pytest.param(None, marks=pytest.mark.skip("no plug-in provider is installed"))
        metafunc.parametrize("plugin", plugins or [none], ids=lambda c: c.provider if c else "none")
