"""The running service: what is shared by all requests, and the order of start and stop."""

import asyncio
import logging
import time
from typing import Final

from app.api.handler import Handler, HandlerLimits
from app.bundle.store import Bundle
from app.engine.cores import available_cores
from app.engine.model import Model, ModelLimits
from app.engine.opener import Opener, OpenerOptions, RunRequest
from app.engine.registry import Registry
from app.engine.workers import Workers
from app.errors import NotReady
from app.ops.metrics import Metrics
from app.settings import Settings

logger = logging.getLogger(__name__)

_IDLE_END_S: Final = 0.2


class Service:
    """Owns the workers and the models. `start` it before the first request, `stop` it last."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.metrics.ready = lambda: self.is_ready
        self.registry = Registry(settings.default_model)
        self.metrics.refused = lambda: self.registry.refused
        self._handler: Handler | None = None
        self._workers: Workers | None = None
        self._draining = False

    @property
    def is_started(self) -> bool:
        return self._handler is not None

    @property
    def is_ready(self) -> bool:
        return self.is_started and not self._draining

    @property
    def handler(self) -> Handler:
        """The inference handler.

        Raises:
            NotReady: the service has not started, or has stopped.
        """
        if self._handler is None:
            raise NotReady("the service is starting or has stopped")
        return self._handler

    async def start(self) -> None:
        """Load and prove the models; ready when this returns.

        Raises:
            NothingToServe: see `Registry.check`.
        """
        settings = self.settings
        loop = asyncio.get_running_loop()
        cores = available_cores()
        slots = settings.threads or cores.count
        reason = "set by MODELPORT_THREADS" if settings.threads else cores.reason
        logger.info("cores", extra={"threads": slots, "reason": reason})
        self._workers = workers = Workers(slots, loop)
        try:
            await asyncio.to_thread(self._load, workers)
        except BaseException:
            await self.stop()
            raise
        limits = HandlerLimits(
            settings.max_body_bytes, settings.timeout_ms, settings.pending_body_bytes
        )
        self._handler = Handler(self.registry, self.metrics, limits, workers)

    def _load(self, workers: Workers) -> None:
        settings = self.settings
        limits = ModelLimits(settings.queue_rows, settings.max_request_rows)
        opener = Opener(_opener_options(settings), workers, limits)

        def open_model(bundle: Bundle) -> Model:
            manifest = bundle.manifest
            figures = self.metrics.figures(manifest.name, manifest.version)
            model = opener.open(bundle, figures)
            self.metrics.add(figures, lambda: model.queued_rows, _info(model))
            fell_back = model.plan.fallback
            logger.log(
                logging.WARNING if fell_back else logging.INFO,
                "model loaded, not on a provider that was asked for"
                if fell_back
                else "model loaded",
                extra=_summary(model),
            )
            return model

        self.registry.load(settings.models, open_model, settings.loaded_versions)
        self.registry.check(settings.models, settings.require)

    def drain(self) -> None:
        """Say 'not ready' from now on, so that no new requests are sent here."""
        self._draining = True

    async def stop(self, grace_s: float = 0.0) -> None:
        """Finish within `grace_s` what is in flight, then free everything. Safe to call twice."""
        self.drain()
        self._handler = None
        ends_s = time.monotonic() + grace_s
        await self.registry.close(grace_s)
        if self._workers is not None:
            # What is idle ends at once; a run that outlasts the grace period is not waited for.
            self._workers.close(max(_IDLE_END_S, ends_s - time.monotonic()))
            self._workers = None


def _opener_options(settings: Settings) -> OpenerOptions:
    def request(name: str) -> RunRequest:
        own = settings.of_model(name)
        assert own.provider is not None  # noqa: S101 (the service's, where it has none)
        return RunRequest(own.provider, bool(own.provider_strict), own.precision or "fp32")

    return OpenerOptions(
        request=RunRequest(settings.provider, settings.provider_strict, settings.precision),
        by_model={name: request(name) for name in settings.per_model},
        budget_ms=settings.calibration_budget_ms,
        trial_timeout_s=settings.trial_timeout_s,
        cache=settings.cache_folder,
        plans=settings.plan,
    )


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
    }
