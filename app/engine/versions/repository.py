"""The model repository as the event loop sees it: every look and change is made on a thread."""

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, TypeVar

from app.bundle.pins import remove_pin, write_pin
from app.bundle.store import ModelFolder, check_pinnable
from app.bundle.survey import Key, Survey, survey
from app.engine.versions.background import BackgroundThread
from app.errors import Unavailable

#: What a look at the repository, or the check of a version's files, may take.
PATIENCE_S: Final = 60.0

T = TypeVar("T")


class Repository:
    """One folder of models.

    Every method raises `Unavailable` where the file system does not answer in time, and at once as
    long as it still owes an answer.

    Args:
        files: the thread for all of it; whoever made it closes it.
    """

    def __init__(self, root: Path, files: BackgroundThread, patience_s: float = PATIENCE_S) -> None:
        self.root = root
        self._files = files
        self._patience_s = patience_s
        self._stuck: asyncio.Future[Any] | None = None

    async def look(self, loaded: Collection[Key], refused: Collection[Key]) -> Survey:
        """See `survey`.

        Raises:
            BundleError: the repository is missing or cannot be read.
        """
        return await self._call(lambda: survey(self.root, loaded, refused))

    async def pin(self, folder: ModelFolder, version: int, *, check: bool) -> None:
        """Pin a version; with `check`, one that is there and whole.

        Raises:
            PinRefused, RepositoryReadOnly, PublishFailed: it is not pinned.
        """

        def work() -> None:
            if check:
                check_pinnable(folder, version)
            write_pin(folder.path, version)

        await self._call(work)

    async def unpin(self, folder: ModelFolder) -> None:
        """Remove a pin; raises as `pin` does."""
        await self._call(lambda: remove_pin(folder.path))

    async def _call(self, work: Callable[[], T]) -> T:
        if self._stuck is not None and not self._stuck.done():
            raise Unavailable("the model repository does not answer")
        call = self._files.call(work)
        call.add_done_callback(_note)
        try:
            async with asyncio.timeout(self._patience_s):
                return await asyncio.shield(call)
        except TimeoutError:
            self._stuck = call
            raise Unavailable("the model repository does not answer") from None


def _note(call: asyncio.Future[Any]) -> None:
    """An error that nobody waits for any longer is no error of the event loop."""
    if not call.cancelled():
        call.exception()
