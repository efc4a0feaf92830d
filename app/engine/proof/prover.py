"""Proves a bundle on this machine: of the providers with the golden answers the fastest serves.

Candidates are tried apart (`trial.py`, in a child process); the session that is opened here
afterwards replays the golden rows once more before anybody gets it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.bundle.golden import Comparison
from app.bundle.manifest import Precision
from app.engine.proof import shipped
from app.engine.proof.choosing import Configuration, fastest_first
from app.engine.proof.opening import open_proved
from app.engine.proof.plan import Plan
from app.engine.proof.planmaking import ProofRequest, make_plan, runs_alike
from app.engine.proof.trial import OpenSession, configuration_of
from app.engine.proof.tryouts import ProofOptions, TryOut, TryOuts, try_in_child
from app.engine.proof.verdict import Verdict
from app.engine.proof.verdicts import Verdicts
from app.engine.providers.ranking import Choice, Rejection
from app.engine.session import Session
from app.errors import ProofFailed

logger = logging.getLogger(__name__)

#: A candidate with one of the bundle's graphs.
Competitor = tuple[Choice, Precision]


@dataclass(frozen=True)
class Proved:
    """An open session that gave the golden answers; whoever gets it closes it."""

    session: Session
    plan: Plan


class Prover:
    """Finds the provider that serves a version.

    Args:
        trial: tries one candidate.
        verdicts: where verdicts are kept, or None.
        shipped: plans that were made elsewhere, by digest.
        open_session: opens the session that serves.
    """

    def __init__(
        self,
        options: ProofOptions,
        trial: TryOut = try_in_child,
        verdicts: Verdicts | None = None,
        shipped: Mapping[str, Plan] | None = None,
        open_session: OpenSession = Session.open,
    ) -> None:
        self._options = options
        self._tryouts = TryOuts(options, trial, verdicts)
        self._shipped = shipped or {}
        self._open_session = open_session

    def prove(self, request: ProofRequest) -> Proved:
        """Try the candidates, group by group; the fastest that is right serves. Blocks.

        Raises:
            BundleError: the bundle's files are not what was published.
            ProofFailed: no candidate was accepted; the message has every reason.
            Cancelled: the request was.
        """
        plan = self._shipped.get(request.bundle.digest)
        proved = None if plan is None else self._prove_shipped(request, plan)
        if proved is not None:
            return proved
        search = _Search(request, self)
        proved = search.run()
        if proved is None and search.met_old_troubles:
            # Nothing else is left, so what went wrong another day is tried again.
            search = _Search(request, self, anew=True)
            proved = search.run()
        if proved is None:
            listed = _listed(search.rejected)
            raise ProofFailed(
                f"no execution provider gave the golden answers: {listed}",
                passing=search.met_troubles,
            )
        return proved

    def heats(self, request: ProofRequest) -> list[list[Competitor]]:
        """Who competes with whom, in order: a heat with a winner ends the search.

        Where nothing is measured nobody can be faster, and each stands alone.
        """
        heats = [
            [(choice, precision) for choice in group for precision in tier]
            for group in request.ranking.groups()
            for tier in request.tiers()
        ]
        if self._options.budget_ms:
            return heats
        return [[competitor] for heat in heats for competitor in heat]

    def verdicts(
        self, request: ProofRequest, heat: Sequence[Competitor], *, anew: bool
    ) -> list[Verdict]:
        """On each of a heat; with `anew`, what failed for passing reasons is tried again."""
        return [
            self._tryouts.compare(request, choice.candidate, precision, len(heat), anew=anew)
            for choice, precision in heat
        ]

    def fastest_first(self, request: ProofRequest, verdicts: Sequence[Verdict]) -> list[Verdict]:
        max_rows = request.bundle.manifest.batching.max_rows
        return fastest_first(verdicts, self._options.cores, max_rows)

    def open(
        self, request: ProofRequest, verdict: Verdict
    ) -> tuple[Session | None, Comparison, Configuration]:
        """The session of an accepted verdict, or None; what its golden rows showed; how it runs."""
        manifest, candidate = request.bundle.manifest, verdict.candidate
        chosen = configuration_of(manifest, verdict.costs, self._options.cores, candidate.device)
        session, found = open_proved(
            self._open_session, request, candidate, verdict.precision, chosen
        )
        return session, found, chosen

    def remember(self, request: ProofRequest, verdict: Verdict) -> None:
        """Later versions of the same model may be just like this one."""
        self._tryouts.remember(request, verdict)

    def _prove_shipped(self, request: ProofRequest, plan: Plan) -> Proved | None:
        """Obey a plan from elsewhere where it fits; else say why not, and go the usual way."""
        about = {"model": request.bundle.manifest.name, "version": request.bundle.manifest.version}
        reason = shipped.why_not(plan, request, self._options.cores)
        proved: Proved | None = None
        if not reason:
            proved, reason = self._try_shipped(request, plan)
        if proved is None:
            logger.warning("a shipped plan does not fit", extra=about | {"reason": reason})
        else:
            logger.info("a shipped plan is obeyed", extra=about)
        return proved

    def _try_shipped(self, request: ProofRequest, plan: Plan) -> tuple[Proved | None, str]:
        choice = shipped.choice_of(plan, request)
        candidate = choice.candidate
        if shipped.needs_trial(candidate):
            tried = self._tryouts.prove(request, candidate, plan.precision, plan.costs)
            if not tried.accepted:
                return None, tried.reason
        chosen = shipped.configuration_of(plan, request, self._options.cores)
        session, found = open_proved(self._open_session, request, candidate, plan.precision, chosen)
        if session is None:
            return None, found.reason
        verdict = shipped.verdict_of(candidate, plan, found, session.nodes_by_provider)
        made = make_plan(request, choice, verdict, chosen, plan.rejected)
        inline = plan.inline_rows if runs_alike(request.bundle, verdict) else 0
        update = {"source": "shipped", "inline_rows": min(inline, chosen.rows)}
        return Proved(session, made.model_copy(update=update)), ""


class _Search:
    """One way through the candidates."""

    def __init__(self, request: ProofRequest, prover: Prover, *, anew: bool = False) -> None:
        self._request = request
        self._prover = prover
        self._anew = anew
        self.rejected: list[Rejection] = list(request.ranking.rejections)
        #: Something failed for a reason that may pass; and that was an earlier trial.
        self.met_troubles = False
        self.met_old_troubles = False

    def run(self) -> Proved | None:
        """The winner, open."""
        for heat in self._prover.heats(self._request):
            verdicts = self._prover.verdicts(self._request, heat, anew=self._anew)
            for verdict in verdicts:
                if not verdict.accepted:
                    self.rejected.append(_rejection(verdict, verdict.reason))
                    self.met_troubles |= verdict.passing
                    self.met_old_troubles |= verdict.kept and verdict.passing
            proved = self._open_fastest([choice for choice, _ in heat], verdicts)
            if proved is not None:
                return proved
        return None

    def _open_fastest(
        self, choices: Sequence[Choice], verdicts: Sequence[Verdict]
    ) -> Proved | None:
        request, prover = self._request, self._prover
        order = prover.fastest_first(request, verdicts)
        for place, verdict in enumerate(order):
            choice = next(c for c in choices if c.candidate == verdict.candidate)
            session, found, chosen = prover.open(request, verdict)
            if session is None:
                reason = f"was right in a trial, but here: {found.reason}"
                self.rejected.append(_rejection(verdict, reason))
                continue
            slower = [_rejection(v, "right, but slower") for v in order[place + 1 :]]
            plan = make_plan(request, choice, verdict, chosen, [*self.rejected, *slower])
            prover.remember(request, verdict)
            return Proved(session, plan)
        return None


def _rejection(verdict: Verdict, reason: str) -> Rejection:
    prefix = "" if verdict.precision == "fp32" else f"{verdict.precision}: "
    return Rejection(verdict.candidate.provider, verdict.candidate.device, prefix + reason)


def _listed(rejected: Sequence[Rejection]) -> str:
    reasons = [
        f"{r.provider} on {r.device}: {r.reason}" if r.device else f"{r.provider} {r.reason}"
        for r in rejected
    ]
    return "; ".join(reasons) or "none is here"
