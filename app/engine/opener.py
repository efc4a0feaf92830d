"""Opens bundles as models: the settings of each model, applied to its proof."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.bundle.store import Bundle
from app.engine.model import Model, ModelLimits
from app.engine.proof.evidence import check_evidence
from app.engine.proof.planmaking import ProofRequest, WantedPrecision
from app.engine.proof.plans import load_plans
from app.engine.proof.prover import Proved, Prover
from app.engine.proof.tryouts import ProofOptions
from app.engine.proof.verdicts import Verdicts
from app.engine.providers.discovery import discover_apart
from app.engine.providers.ranking import AUTO, Ranking, rank
from app.engine.scheduling.batcher import Observer
from app.engine.scheduling.workers import Workers
from app.errors import ProofFailed

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
    precision: WantedPrecision = "fp32"

    @property
    def only(self) -> str:
        """The one name that will do; empty where others will as well."""
        name = self.provider[0]
        return name if self.strict and name.lower() != AUTO else ""


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

    def of(self, model: str) -> RunRequest:
        return self.by_model.get(model, self.request)

    def strictness(self, model: str) -> str:
        """Which setting lets one provider alone serve a model; empty where none does."""
        only = self.of(model).only
        if not only:
            return ""
        setting = "PROVIDER_STRICT" if self.request.strict else "PER_MODEL"
        return f"MODELPORT_{setting} is strict: only {only} may serve it"


class BundleProver:
    """Proves bundles on this machine, each by the settings of its model.

    Making one looks for execution providers, which blocks.

    Raises:
        SettingsError: the file of shipped plans cannot be used.
    """

    def __init__(self, options: OpenerOptions, cores: int) -> None:
        self._options = options
        self._prover = Prover(
            ProofOptions(cores, options.budget_ms, options.trial_timeout_s),
            verdicts=None if options.cache is None else Verdicts(options.cache),
            shipped={} if options.plans is None else load_plans(options.plans),
        )
        self._found = discover_apart()
        for problem in self._found.problems:
            extra = {"package": problem.source, "problem": problem.reason}
            logger.warning("execution provider", extra=extra)
        for model, request in (("", options.request), *options.by_model.items()):
            self._warn_of_absent(model, request)

    def _warn_of_absent(self, model: str, request: RunRequest) -> None:
        for absent in self._rank(request).rejections:
            extra = {"problem": f"asked for {absent.provider}, which {absent.reason}"}
            logger.warning("execution provider", extra=extra | ({"model": model} if model else {}))

    def _rank(self, request: RunRequest) -> Ranking:
        return rank(self._found.candidates, request.provider, strict=request.strict)

    def prove(
        self,
        bundle: Bundle,
        *,
        background: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Proved:
        """Verify, prove and calibrate a version. Blocks; the caller closes the session.

        Args:
            background: something is being served meanwhile, so take few threads and low priority.
            cancelled: asked now and then; true ends the attempt.
        Raises:
            BundleError: the files are not what was published, or disagree.
            ProofFailed: no provider gave the golden answers.
            Cancelled: the attempt was.
        """
        check_evidence(bundle)
        name = bundle.manifest.name
        request = self._options.of(name)
        proof = ProofRequest(bundle, self._rank(request), request.precision, background, cancelled)
        try:
            return self._prover.prove(proof)
        except ProofFailed as error:
            strictness = self._options.strictness(name)
            if not strictness:
                raise
            raise ProofFailed(f"{error}; {strictness}", passing=error.passing) from None


class Opener:
    """Opens bundles as models that share one run budget. Making one blocks as its prover does."""

    def __init__(self, options: OpenerOptions, workers: Workers, limits: ModelLimits) -> None:
        self._prover = BundleProver(options, workers.slots)
        self._workers = workers
        self._limits = limits

    def open(
        self,
        bundle: Bundle,
        observer: Observer,
        *,
        background: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Model:
        """Verify, prove, calibrate and open a version. Blocks; call it on a thread.

        Arguments and errors are those of `BundleProver.prove`.
        """
        proved = self._prover.prove(bundle, background=background, cancelled=cancelled)
        try:
            return Model(bundle, proved, self._workers, self._limits, observer)
        except Exception:
            proved.session.close()
            raise
