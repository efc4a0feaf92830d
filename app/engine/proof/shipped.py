"""Plans that were made elsewhere: obeyed where they fit this machine and what is asked for."""

from collections.abc import Mapping

from app.bundle.golden import Comparison
from app.engine.proof.choosing import Configuration
from app.engine.proof.plan import Plan
from app.engine.proof.planmaking import ProofRequest
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.providers.ranking import Choice


def why_not(plan: Plan, request: ProofRequest, cores: int) -> str:
    """Why a shipped plan cannot be obeyed here; empty where it can be tried."""
    if plan.intra_op_threads > cores:
        return f"it wants {plan.intra_op_threads} cores, here are {cores}"
    if plan.precision not in request.graphs():
        return f"the bundle has no {plan.precision} graph"
    if all(plan.precision not in tier for tier in request.tiers()):
        return f"it runs the {plan.precision} graph, but {request.precision} is asked for"
    if not _same_provider(plan, request):
        return f"{plan.provider_opened} is not among the candidates here"
    return ""


def choice_of(plan: Plan, request: ProofRequest) -> Choice:
    """The candidate that a plan means; on its kind of device, where there is such a one."""
    same = _same_provider(plan, request)
    return min(same, key=lambda choice: choice.candidate.device != plan.device)


def configuration_of(plan: Plan, request: ProofRequest, cores: int) -> Configuration:
    """What a plan wants, within what this machine and the version allow."""
    return Configuration(
        plan.intra_op_threads,
        max(1, min(plan.instances, cores // plan.intra_op_threads)),
        min(plan.max_rows, request.bundle.manifest.batching.max_rows),
        None,
    )


def needs_trial(candidate: Candidate) -> bool:
    """Whether its library may crash or hang: then it is tried apart first."""
    return candidate.provider != CPU_PROVIDER or candidate.library is not None


def verdict_of(
    candidate: Candidate, plan: Plan, found: Comparison, nodes: Mapping[str, int]
) -> Verdict:
    """What the golden rows showed here, with what runs cost there."""
    return Verdict(
        candidate=candidate,
        precision=plan.precision,
        numeric_class=found.numeric_class,
        reason=found.reason,
        max_abs_error=found.max_abs_error,
        nodes_by_provider=dict(nodes),
        costs=plan.costs,
    )


def _same_provider(plan: Plan, request: ProofRequest) -> list[Choice]:
    order = request.ranking.order
    return [choice for choice in order if choice.candidate.provider == plan.provider_opened]
