"""Settings, put as the engine wants them."""

from collections.abc import Collection, Sequence

from app.engine.cores import available_cores
from app.engine.opener import OpenerOptions, RunRequest
from app.settings import Settings


def run_budget(settings: Settings) -> tuple[int, str]:
    """Cores for runs in one process, and why so many."""
    cores = available_cores()
    count = settings.threads or cores.count
    reason = "set by MODELPORT_THREADS" if settings.threads else cores.reason
    if settings.workers == 1:
        return count, reason
    return max(1, count // settings.workers), f"{reason}, divided by {settings.workers} workers"


def unknown_models(settings: Settings, known: Collection[str]) -> Sequence[str]:
    """Names in `MODELPORT_PER_MODEL` of which the repository has no model: they do nothing."""
    return sorted(settings.per_model.keys() - set(known))


def opener_options(settings: Settings) -> OpenerOptions:
    """How models are opened under these settings."""

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
