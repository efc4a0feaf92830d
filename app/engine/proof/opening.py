"""Opens the session that is to serve: it replays the golden rows, whatever a trial showed."""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from app.bundle.golden import Comparison, replay
from app.bundle.manifest import Precision
from app.bundle.tensors import Tensors
from app.engine.proof.choosing import Configuration
from app.engine.proof.planmaking import ProofRequest
from app.engine.proof.trial import OpenSession, proof_sizes, unfit
from app.engine.providers.candidates import Candidate
from app.engine.session import Session
from app.errors import EngineError

_WARM_RUNS: Final = 2


def open_proved(
    open_session: OpenSession,
    request: ProofRequest,
    candidate: Candidate,
    precision: Precision,
    chosen: Configuration,
) -> tuple[Session | None, Comparison]:
    """An open session that gave the golden answers, or None; and what the golden rows showed."""
    bundle = request.bundle
    manifest, golden = bundle.manifest.variant(precision), bundle.golden()
    session: Session | None = None
    try:
        session = open_session(bundle.model(precision), candidate, chosen.intra_op_threads)
        problem = unfit(session, manifest, candidate)
        sizes = proof_sizes(manifest, golden.rows, chosen.rows)
        found = Comparison(None, problem) if problem else None
        found = found or replay(session.run, golden, manifest, sizes)
        if found.passed:
            _warm_up(session, golden.tiled(sizes[-1]).inputs, chosen.instances)
    except EngineError as error:
        found = Comparison(None, str(error))
    except BaseException:
        if session is not None:
            session.close()
        raise
    if session is not None and not found.passed:
        session.close()
        session = None
    return session, found


def _warm_up(session: Session, inputs: Tensors, instances: int) -> None:
    """As many runs at a time as there will be, of the largest batch that was just proved.

    The first ones make the session ask for memory, which would hold up requests.
    """

    def runs() -> None:
        for _ in range(_WARM_RUNS):
            session.run(inputs)

    with ThreadPoolExecutor(instances) as pool:
        for done in [pool.submit(runs) for _ in range(instances)]:
            done.result()
