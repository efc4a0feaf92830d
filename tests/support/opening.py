"""Bundles proved and opened in this process, which is quicker than in a child."""

from typing import Any

from app.bundle.store import Bundle
from app.engine.model import Model, ModelLimits
from app.engine.proof.evidence import check_evidence
from app.engine.proof.planmaking import ProofRequest, WantedPrecision
from app.engine.proof.prover import Proved, Prover
from app.engine.proof.trial import OpenSession, try_out
from app.engine.proof.trialjob import TrialJob
from app.engine.proof.tryouts import IsCancelled, ProofOptions, TryOut
from app.engine.proof.verdict import Verdict
from app.engine.providers.ranking import Ranking
from app.engine.scheduling.batcher import Observer
from app.engine.scheduling.workers import Workers
from app.engine.session import Session


def trying_here(open_session: OpenSession = Session.open) -> TryOut:
    """A trial in this process, of sessions that are opened so."""

    def trial(job: TrialJob, timeout_s: float, cancelled: IsCancelled) -> Verdict:
        return try_out(job, open_session)

    return trial


def prove(
    bundle: Bundle,
    ranking: Ranking,
    cores: int = 1,
    *,
    open_session: OpenSession = Session.open,
    trial: TryOut | None = None,
    budget_ms: int = 0,
    precision: WantedPrecision = "fp32",
    **options: Any,
) -> Proved:
    """The best candidate of the ranking that gives the golden answers.

    Args:
        open_session: opens the sessions of the trials and the one that serves.
        trial: instead of one in this process.
        options: the other arguments of `Prover`.
    """
    check_evidence(bundle)
    prover = Prover(
        ProofOptions(cores, budget_ms),
        trial or trying_here(open_session),
        open_session=open_session,
        **options,
    )
    return prover.prove(ProofRequest(bundle, ranking, precision))


def open_model(
    bundle: Bundle,
    ranking: Ranking,
    workers: Workers,
    limits: ModelLimits,
    observer: Observer | None = None,
) -> Model:
    """A model on the first candidate that is right, without calibration."""
    proved = prove(bundle, ranking, workers.slots)
    try:
        return Model(bundle, proved, workers, limits, observer)
    except Exception:
        proved.session.close()
        raise
