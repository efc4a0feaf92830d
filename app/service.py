"""The running service: what is shared by all requests, and the order of start and stop."""

import asyncio
import logging
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Final

from app.api.handler import Handler, HandlerLimits
from app.bundle.store import Bundle
from app.engine.memory import give_back_freed
from app.engine.model import Model, ModelLimits
from app.engine.opener import Opener
from app.engine.scheduling.workers import Workers
from app.engine.versions.background import BackgroundThread
from app.engine.versions.registry import Registry
from app.engine.versions.reloader import Hooks, Reloader
from app.engine.versions.repository import Repository
from app.engine.versions.selection import Policy
from app.errors import NotReady
from app.opening import opener_options, run_budget, unknown_models
from app.ops.figures import ModelMetrics
from app.ops.metrics import Metrics
from app.settings import Settings

logger = logging.getLogger(__name__)

_IDLE_END_S: Final = 0.2


class Service:
    """Owns the workers and the models. `start` it before the first request, `stop` it last."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = Registry(settings.default_model)
        self.metrics = Metrics()
        self.metrics.ready = lambda: self.is_ready
        self.metrics.refused = lambda: self.registry.refused
        self.metrics.serving = lambda: self.registry.serving
        self.metrics.pin_problems = lambda: self.registry.pin_problems
        #: Called after a pin or a reload by an administrator, for processes that serve beside.
        self.tell_others: Callable[[], None] = lambda: None
        self._figures: weakref.WeakKeyDictionary[Model, ModelMetrics] = weakref.WeakKeyDictionary()
        self._handler: Handler | None = None
        self._workers: Workers | None = None
        self._files: BackgroundThread | None = None
        self._reloader: Reloader | None = None
        self._is_started = False
        self._draining = False

    @property
    def is_started(self) -> bool:
        return self._is_started

    @property
    def is_ready(self) -> bool:
        return self.is_started and not self._draining

    @property
    def handler(self) -> Handler:
        """The inference handler.

        Raises:
            NotReady: the service has not started, or has stopped.
        """
        if self._handler is None or not self._is_started:
            raise NotReady("the service is starting or has stopped")
        return self._handler

    @property
    def reloader(self) -> Reloader:
        """What follows the repository. Raises as `handler` does."""
        if self._reloader is None or not self._is_started:
            raise NotReady("the service is starting or has stopped")
        return self._reloader

    async def start(self) -> None:
        """Load and prove the models; ready when this returns.

        Raises:
            NothingToServe: see `Registry.check`.
        """
        settings = self.settings
        loop = asyncio.get_running_loop()
        slots, reason = run_budget(settings)
        logger.info("cores", extra={"threads": slots, "reason": reason})
        self._workers = workers = Workers(slots, loop)
        self._handler = Handler(self.registry, self.metrics, _handler_limits(settings), workers)
        self._files = files = BackgroundThread("modelport-files", loop)
        try:
            await self._load(workers, self._handler, files)
        except BaseException:
            await self.stop()
            raise
        self._is_started = True

    async def _load(self, workers: Workers, handler: Handler, files: BackgroundThread) -> None:
        settings = self.settings
        limits = ModelLimits(settings.queue_rows, settings.max_request_rows, settings.queue_bytes)
        opener = await files.call(lambda: Opener(opener_options(settings), workers, limits))
        hooks = Hooks(
            open=lambda bundle: self._open(bundle, opener, handler, files),
            loaded=self._show,
            let_go=lambda model: self.metrics.remove(model.name, model.version),
            attempted=self._count,
        )
        policy = Policy(settings.loaded_versions, settings.keep_previous)
        repository = Repository(settings.models, files)
        self._reloader = reloader = Reloader(self.registry, repository, hooks, policy)
        await reloader.start()
        self._warn_of_unknown()
        self.registry.check(settings.models, settings.require)
        self._tell_unserved()
        await files.call(give_back_freed)
        if settings.poll_s:
            reloader.poll(settings.poll_s)

    def _warn_of_unknown(self) -> None:
        for name in unknown_models(self.settings, self.registry.entries):
            logger.warning(
                "MODELPORT_PER_MODEL names a model that is not in the repository",
                extra={"model": name},
            )

    def _tell_unserved(self) -> None:
        for name, reason in self.registry.unserved.items():
            logger.error("model not served", extra={"model": name, "reason": reason})

    def _open(
        self, bundle: Bundle, opener: Opener, handler: Handler, files: BackgroundThread
    ) -> Model:
        """On the loading thread, with all that the event loop should not wait for."""
        figures = self.metrics.figures(bundle.manifest.name, bundle.manifest.version)
        model = opener.open(
            bundle, figures, background=self.is_started, cancelled=lambda: self._draining
        )
        handler.prepare(model, figures)
        self._figures[model] = figures
        # Whoever drops it last, a request perhaps, frees nothing itself: that may take long.
        free = weakref.finalize(model, files.put, partial(_free, model.free))
        free.atexit = False
        return model

    def _show(self, model: Model) -> None:
        self.metrics.add(
            self._figures.pop(model),
            lambda: model.queued_rows,
            _info(model),
            nodes=model.plan.nodes_by_provider,
            rejected=model.plan.rejected,
        )
        fell_back = model.plan.fallback
        logger.log(
            logging.WARNING if fell_back else logging.INFO,
            "model loaded, not on a provider that was asked for" if fell_back else "model loaded",
            extra=_summary(model),
        )

    def _count(self, model: str, outcome: str) -> None:
        if self.is_started:
            self.metrics.reloads[model, outcome] += 1

    def rescan(self, forget: bool = True) -> None:
        """Look at the repository now; with `forget`, try again what was refused.

        On the event loop's thread. It returns at once, and does nothing while starting or stopping.
        """
        if self._reloader is not None and self.is_ready:
            self._reloader.rescan(forget)

    def drain(self) -> None:
        """Say 'not ready' from now on, so that no new requests are sent here."""
        self._draining = True
        if self._reloader is not None:
            self._reloader.drain()

    async def stop(self, grace_s: float = 0.0) -> None:
        """Finish within `grace_s` what is in flight, then free everything. Safe to call twice."""
        self.drain()
        self._is_started = False
        self._handler = None
        ends_s = time.monotonic() + grace_s
        await self.registry.close(grace_s)

        def left_s() -> float:
            return max(_IDLE_END_S, ends_s - time.monotonic())

        # What is idle ends at once; what outlasts the grace period is not waited for.
        if self._reloader is not None:
            self._reloader.close(left_s())
        if self._workers is not None:
            self._workers.close(left_s())
            self._workers = None
        if self._files is not None:
            self._files.close(left_s())
            self._files = None


def _handler_limits(settings: Settings) -> HandlerLimits:
    own = {name: one.timeout_ms for name, one in settings.per_model.items() if one.timeout_ms}
    return HandlerLimits(
        settings.max_body_bytes, settings.timeout_ms, settings.pending_body_bytes, own
    )


def _free(session: Callable[[], None]) -> None:
    session()
    give_back_freed()


def _summary(model: Model) -> dict[str, object]:
    return {
        "model": model.name,
        "version": model.version,
        "provider": model.plan.provider,
        "numeric_class": model.plan.numeric_class,
        "proof_ms": model.plan.proof_ms,
        "reason": model.plan.reason,
    }


def _info(model: Model) -> dict[str, str]:
    return {
        "digest": model.digest,
        "provider": model.plan.provider,
        "device": model.plan.device,
        "numeric_class": model.plan.numeric_class,
        "precision": model.plan.precision,
    }
