"""A registry that follows a repository, for tests without HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.bundle.store import Bundle
from app.engine.versions.background import BackgroundThread
from app.engine.versions.registry import Registry
from app.engine.versions.reloader import Hooks, Reloader
from app.engine.versions.repository import Repository
from app.engine.versions.selection import Policy

OpenModel = Callable[[Bundle], Any]


class OpenedModel:
    """What the registry needs of a model, for tests that need no answers."""

    def __init__(self, bundle: Bundle) -> None:
        self.name, self.version = bundle.manifest.name, bundle.manifest.version
        self.digest = bundle.digest
        self.closed_within_s: float | None = None

    async def close(self, timeout_s: float) -> None:
        self.closed_within_s = timeout_s


@asynccontextmanager
async def following(
    root: Path,
    open_model: OpenModel = OpenedModel,
    *,
    policy: Policy = Policy(),  # noqa: B008 (frozen)
    default: str | None = None,
    **hooks: Any,
) -> AsyncIterator[tuple[Registry, Reloader]]:
    """Start to follow; nothing is polled. The models are not closed at the end."""
    registry = Registry(default)
    files = BackgroundThread("files", asyncio.get_running_loop())
    repository = Repository(root, files)
    reloader = Reloader(registry, repository, Hooks(open_model, **hooks), policy)
    try:
        await reloader.start()
        yield registry, reloader
    finally:
        reloader.close(10)
        files.close(10)


def loaded(
    root: Path, open_model: OpenModel = OpenedModel, *, keep: int = 1, default: str | None = None
) -> Registry:
    """The registry as it is after the start."""

    async def start() -> Registry:
        policy = Policy(loaded_versions=keep)
        async with following(root, open_model, policy=policy, default=default) as (registry, _):
            return registry

    return asyncio.run(start())
