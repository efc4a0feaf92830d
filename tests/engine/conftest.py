import asyncio
import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from app.bundle.store import Bundle
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.providers.discovery import discover_apart
from app.engine.providers.installed import Discovery
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


class Ticks:
    """A clock by which every job of the only thread takes one second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


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
    """What is installed here. No plug-in's library is loaded into this process."""
    return found_here()


@pytest.fixture
def cpu() -> Candidate:
    return Candidate(CPU_PROVIDER, "cpu")


@pytest.fixture
def bundle_of(tmp_path: Path) -> Callable[..., Bundle]:
    """Publish a fixture model: `bundle_of("affine", **make_bundle's arguments)`."""

    def publish(model: str = "affine", **arguments: Any) -> Bundle:
        return make_bundle(tmp_path, model, model, **arguments)

    return publish


@functools.cache
def found_here() -> Discovery:
    """Looked for once: every plug-in package takes a child process."""
    return discover_apart()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with a `plugin` or an `accelerator` runs once for each that is here.

    A plug-in is a candidate that a package brings, an accelerator any that is not a CPU.
    """
    for fixture in {"plugin", "accelerator"} & set(metafunc.fixturenames):
        found = [c for c in found_here().candidates if _is_a(fixture, c)]
        none = pytest.param(None, marks=pytest.mark.skip(f"no {fixture} is here"))
        metafunc.parametrize(fixture, found or [none], ids=_named)


def _is_a(fixture: str, candidate: Candidate) -> bool:
    return candidate.origin == "plug-in" if fixture == "plugin" else candidate.device != "cpu"


def _named(candidate: Candidate | None) -> str:
    return f"{candidate.provider}-{candidate.device}" if candidate else "none"
