"""Opens bundles as models: the settings of each model, applied to its proof."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from app.bundle.store import Bundle
from app.engine.batcher import Observer
from app.engine.model import Model, ModelLimits
from app.engine.providers import discover
from app.engine.ranking import rank
from app.engine.workers import Workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRequest:
    """What somebody asked for of one model.

    Attributes:
        provider: execution providers in order, or "auto".
        strict: only the first of them will do.
        precision: which of the bundle's graphs; "auto" is the fastest that proves.
    """

    provider: tuple[str, ...] = ("auto",)
    strict: bool = False
    precision: Literal["fp32", "auto", "int8", "fp16"] = "fp32"


@dataclass(frozen=True)
class OpenerOptions:
    """How models are opened.

    Attributes:
        request: what is asked for of every model that `by_model` does not name.
        budget_ms: time to measure a model's costs; 0 for none.
        trial_timeout_s: time for a provider to prove itself; None for its own limit.
        cache: folder that keeps verdicts, or None.
        plans: file of shipped plans, or None.
    """

    request: RunRequest = RunRequest()
    by_model: Mapping[str, RunRequest] = field(default_factory=dict)
    budget_ms: int = 1500
    trial_timeout_s: float | None = None
    cache: Path | None = None
    plans: Path | None = None


class Opener:
    """Proves bundles on this machine and opens them."""

    def __init__(self, options: OpenerOptions, workers: Workers, limits: ModelLimits) -> None:
        self._options = options
        self._workers = workers
        self._limits = limits
        self._found = discover()
        for problem in self._found.problems:
            logger.warning("execution provider", extra={"problem": problem.reason})

    def open(
        self,
        bundle: Bundle,
        observer: Observer,
        *,
        background: bool = False,  # noqa: ARG002 (of calibration, which is to come)
        cancelled: Callable[[], bool] = lambda: False,  # noqa: ARG002
    ) -> Model:
        """Verify, prove, calibrate and open a version. Blocks; call it on a thread.

        Args:
            background: something is being served meanwhile, so take few threads and low priority.
            cancelled: asked now and then; true ends the attempt.
        Raises:
            BundleError, ProofFailed: as `Model.open`.
        """
        request = self._options.by_model.get(bundle.manifest.name, self._options.request)
        ranking = rank(self._found.candidates, request.provider, strict=request.strict)
        return Model.open(bundle, ranking, self._workers, self._limits, observer)
