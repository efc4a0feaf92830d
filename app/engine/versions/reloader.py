"""Keeps the registry in step with its repository while it serves.

Look, decide, open, swap: a look at the repository happens on one thread, versions are opened one at
a time on another, and everything is decided on the event loop, where a swap is one assignment. A
version that is let go is only forgotten here: requests that hold it finish on it.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from app.bundle.store import Bundle, ModelFolder, fingerprint, open_bundle
from app.bundle.survey import Survey
from app.engine.model import Model
from app.engine.versions.background import BackgroundThread
from app.engine.versions.entry import Entry, Refusal
from app.engine.versions.registry import Registry
from app.engine.versions.repository import Repository
from app.engine.versions.selection import Policy
from app.errors import ModelportError, NothingToServe, PinRefused, ProofFailed, Unavailable

logger = logging.getLogger(__name__)

_JITTER: Final = 0.1
#: When a version is tried again that failed for a reason which may pass.
_TRY_AGAIN_S: Final = (60.0, 300.0, 1800.0)


@dataclass(frozen=True)
class Hooks:
    """What the owner of the models does around them.

    Attributes:
        open: a bundle to a model, or an error; blocks, on a thread.
        loaded: on the loop, before a model may serve.
        let_go: on the loop, when no new request gets it.
        attempted: on the loop, with the model's name and "loaded" or "refused".
    """

    open: Callable[[Bundle], Model]
    loaded: Callable[[Model], None] = lambda _: None
    let_go: Callable[[Model], None] = lambda _: None
    attempted: Callable[[str, str], None] = lambda _name, _outcome: None


class Reloader:
    """Owns the thread that loads, and the task that polls.

    Args:
        registry: what is to follow the repository.
        repository: where the models come from.
        hooks: what happens to each model.
        policy: how many versions stay loaded.
    """

    def __init__(
        self, registry: Registry, repository: Repository, hooks: Hooks, policy: Policy
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._hooks = hooks
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._loader = BackgroundThread("modelport-load", self._loop)
        self._random = random.Random()  # noqa: S311 (no secret)
        self._looking = asyncio.Lock()
        self._changed = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._retries: set[asyncio.TimerHandle] = set()
        self._rescan_due: set[str] | None = None
        self._last_opened = ""
        self._told: set[tuple[str, str]] = set()
        self._is_lost = False
        self.is_closing = False

    async def start(self) -> None:
        """Look, and load everything that should be.

        Raises:
            NothingToServe: the repository cannot be read.
        """
        try:
            await self._look()
        except ModelportError as error:
            raise NothingToServe(f"cannot serve {self._repository.root}: {error}") from None
        if self._opening is not None:
            await self._opening

    def poll(self, every_s: float) -> None:
        """Look now and then from now on; `every_s` is spread, so that replicas do not march."""
        self._spawn(self._poll(every_s))

    async def _poll(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s * self._random.uniform(1 - _JITTER, 1 + _JITTER))
            await self._look_quietly(())

    def rescan(self, forget: bool) -> None:
        """Look now; with `forget`, try again what was refused. Those that wait go together."""
        names = set(self._registry.entries) if forget else set()
        if self._rescan_due is None:
            self._rescan_due = names
            self._spawn(self._rescan())
        else:
            self._rescan_due |= names

    async def _rescan(self) -> None:
        async with self._looking:  # what comes while another look is under way goes together
            forget, self._rescan_due = self._rescan_due, None
        await self._look_quietly(forget or ())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reload(self, name: str, wait_s: float) -> Entry:
        """Look now, try again what was refused of a model, and wait for what comes of it.

        Returns:
            the model; it is still at work where `wait_s` was too short.
        Raises:
            ModelNotFound: it is not in the repository.
            Unavailable: the repository cannot be read now.
        """
        await self._look_for_somebody((name,))
        return await self._settled(name, wait_s)

    async def pin(self, name: str, version: int, wait_s: float) -> Entry:
        """Pin a version that is there and whole, and wait for what comes of it.

        Raises:
            ModelNotFound: the model is not in the repository.
            PinRefused, RepositoryReadOnly, PublishFailed: it is not pinned.
            Unavailable: the repository cannot be read now.
        """
        await self._look_for_somebody(())
        entry = self._registry.entry(name)
        refusal = entry.refusals.get(version)
        if refusal is not None and not refusal.is_due:
            raise PinRefused(f"version {version} of {name} cannot serve: {refusal.reason}")
        await self._repository.pin(entry.folder, version, check=not entry.is_proved(version))
        return await self.reload(name, wait_s)

    async def unpin(self, name: str, wait_s: float) -> Entry:
        """Remove a model's pin, and wait for what comes of it. Raises as `pin` does."""
        await self._repository.unpin(self._registry.entry(name).folder)
        return await self.reload(name, wait_s)

    async def _settled(self, name: str, wait_s: float) -> Entry:
        deadline_s = self._loop.time() + wait_s
        entry = self._registry.entry(name)
        while entry.is_at_work and not self.is_closing:
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._changed.wait()
            except TimeoutError:
                break
        return entry

    async def _look_quietly(self, forget: Collection[str]) -> None:
        """A repository that cannot be read for a moment changes nothing, and is told of once."""
        try:
            await self._look(forget)
        except ModelportError as error:
            if not self._is_lost:
                logger.error("model repository", extra={"problem": str(error)})
            self._is_lost = True
            return
        except Exception:
            logger.exception("looking at the model repository failed")
            return
        if self._is_lost:
            logger.info("model repository can be read again")
        self._is_lost = False

    async def _look_for_somebody(self, forget: Collection[str]) -> None:
        try:
            await self._look(forget)
        except ModelportError as error:
            raise Unavailable(str(error)) from None

    async def _look(self, forget: Collection[str] = ()) -> None:
        entries = self._registry.entries
        async with self._looking:
            loaded = [(name, version) for name, e in entries.items() for version in e.loaded]
            found = await self._repository.look(loaded, self._registry.refused)
            if self.is_closing:
                return
            self._tell_problems(found)
            self._registry.see(found, forget)
        for entry in list(entries.values()):
            self._decide(entry)
        self._go_on()

    def _tell_problems(self, found: Survey) -> None:
        """Each once, until it is gone."""
        told = {(f.name, problem) for f in found.folders.values() for problem in f.problems}
        for name, problem in sorted(told - self._told):
            logger.warning("model folder", extra={"model": name, "problem": problem})
        self._told = told

    def _decide(self, entry: Entry) -> None:
        for model in entry.decide(self._policy):
            self._let_go(model)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _let_go(self, model: Model) -> None:
        logger.info("model let go", extra={"model": model.name, "version": model.version})
        self._registry.let_go(model)
        self._hooks.let_go(model)

    def _go_on(self) -> None:
        if self._opening is None or self._opening.done():
            self._opening = self._loop.create_task(self._open_wanted())

    async def _open_wanted(self) -> None:
        while not self.is_closing and (entry := self._next()) is not None:
            self._last_opened = entry.name
            await self._open(entry)
            self._decide(entry)

    def _next(self) -> Entry | None:
        """In turns, so that a model of which much is published holds up no other."""
        waiting = [entry for entry in self._registry.entries.values() if entry.wanted is not None]
        waiting.sort(key=lambda entry: (entry.name <= self._last_opened, entry.name))
        return waiting[0] if waiting else None

    async def _open(self, entry: Entry) -> None:
        version = entry.loading = entry.wanted
        assert version is not None  # noqa: S101 (that is why it was chosen)
        folder = entry.folder
        try:
            result = await self._loader.call(lambda: self._attempt(folder, version))
        finally:
            entry.loading = None
        if self.is_closing:
            return
        if isinstance(result, Refusal):
            entry.failed(version, result)
            self._plan_retry(entry, version, result)
            self._hooks.attempted(entry.name, "refused")
            return
        self._hooks.loaded(result)
        old = entry.opened(result)
        if old is not None:
            self._let_go(old)
        self._hooks.attempted(entry.name, "loaded")

    def _plan_retry(self, entry: Entry, version: int, refusal: Refusal) -> None:
        """What failed for a reason that may pass is tried again, three times, ever later."""
        if not refusal.may_pass or refusal.tries > len(_TRY_AGAIN_S):
            return

        def retry() -> None:
            self._retries.discard(handle)
            if entry.refusals.get(version) is refusal:
                refusal.is_due = True
                self._decide(entry)
                self._go_on()

        handle = self._loop.call_later(_TRY_AGAIN_S[refusal.tries - 1], retry)
        self._retries.add(handle)

    def _attempt(self, folder: ModelFolder, version: int) -> Model | Refusal:
        """On the loading thread. Whatever is wrong with a version, others can still serve."""
        before = fingerprint(folder.path / str(version))
        try:
            return self._hooks.open(open_bundle(folder.path, version))
        except BaseException as error:  # Foreign code may panic, or ask for the process's end.
            if isinstance(error, ModelportError):
                reason = str(error)
            else:
                reason = f"cannot be loaded ({type(error).__name__})"
                about = {"model": folder.name, "version": version}
                logger.exception("model version failed", extra=about)
            may_pass = isinstance(error, ProofFailed) and error.passing
            return Refusal(reason, type(error).__name__, before, before, may_pass=may_pass)

    def drain(self) -> None:
        """Begin nothing new, and stop waiting for what goes on."""
        self.is_closing = True
        for task in self._tasks:
            task.cancel()
        for handle in self._retries:
            handle.cancel()
        self._changed.set()

    def close(self, timeout_s: float) -> None:
        """End; a version that is being opened is waited for at most so long."""
        self.drain()
        if self._opening is not None:
            self._opening.cancel()
        self._loader.close(timeout_s)
