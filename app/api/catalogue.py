"""`GET /models`: what is served, how it was proved, and what it takes."""

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from app.bundle.manifest import Gate, Graph, Manifest
from app.bundle.signature import Signature
from app.engine.model import Model
from app.engine.proof.plan import Plan
from app.engine.versions.entry import REPLACED, Entry
from app.engine.versions.registry import Registry


class ModelSummary(BaseModel):
    name: str
    version: int
    digest: str
    task: str
    description: str
    provider: str
    default: bool


class ModelList(BaseModel):
    models: list[ModelSummary]


class VersionState(BaseModel):
    """A version of a model.

    `gone` is one that serves or is loaded, and is not in the repository any more. `reason` says why
    one is refused, or that other files lie where one was loaded from; it is empty otherwise.
    """

    version: int
    state: Literal["serving", "loaded", "loading", "refused", "available", "gone"]
    reason: str


class Batching(BaseModel):
    row_independent: bool
    max_rows: int


class ModelDetail(ModelSummary):
    """Everything that is known of the served version."""

    signature: Signature
    batching: Batching
    plan: Plan
    graph: Graph
    metrics: dict[str, dict[str, float]]
    gates: list[Gate]
    labels: list[str]
    created_at: str
    versions: list[VersionState]
    #: Set where serve.json pins the model.
    pin: int | None = None
    #: Why the pin is not obeyed.
    pin_problem: str | None = None


def router(registry: Callable[[], Registry]) -> APIRouter:
    routes = APIRouter(tags=["models"])

    @routes.get("/models", operation_id="list_models", summary="The served models")
    async def list_models() -> ModelList:
        return ModelList(
            models=[_summary(model, registry()) for model in registry().served.values()]
        )

    @routes.get(
        "/models/{name}",
        operation_id="get_model",
        summary="Signature, metrics, proof and versions of a model",
        response_model_exclude_none=True,
    )
    async def get_model(name: str) -> ModelDetail:
        return _detail(registry().get(name), registry().entry(name), registry())

    return routes


def _summary(model: Model, registry: Registry) -> ModelSummary:
    return ModelSummary(
        name=model.name,
        version=model.version,
        digest=model.digest,
        task=model.manifest.task,
        description=model.manifest.description,
        provider=model.plan.provider,
        default=registry.default_name == model.name,
    )


def _detail(model: Model, entry: Entry, registry: Registry) -> ModelDetail:
    manifest = model.manifest
    return ModelDetail(
        **_summary(model, registry).model_dump(),
        signature=manifest.signature,
        batching=Batching(
            row_independent=manifest.batching.row_independent, max_rows=model.plan.max_rows
        ),
        plan=model.plan,
        graph=manifest.graph,
        metrics={split: dict(values) for split, values in manifest.metrics.items()},
        gates=list(manifest.gates),
        labels=list(labels(manifest)),
        created_at=manifest.created_at.isoformat(),
        pin=entry.pin,
        pin_problem=entry.pin_problem or None,
        versions=version_states(entry),
    )


def labels(manifest: Manifest) -> tuple[str, ...]:
    """The class labels, where the model has any."""
    for prediction in manifest.signature.predictions:
        if prediction.kind in ("label", "scores"):
            return prediction.labels
    return ()


def version_states(entry: Entry) -> list[VersionState]:
    """Every version that is in the repository or loaded, newest first."""
    numbers = sorted({*entry.versions, *entry.loaded}, reverse=True)
    return [_version(entry, version) for version in numbers]


def _version(entry: Entry, version: int) -> VersionState:
    if version in entry.loaded:
        reason = entry.refused.get(version, REPLACED) if version in entry.replaced else ""
        return VersionState(version=version, state=_loaded_state(entry, version), reason=reason)
    reason = entry.refused.get(version, "")
    if version in (entry.loading, entry.wanted):
        return VersionState(version=version, state="loading", reason=reason)
    return VersionState(version=version, state="refused" if reason else "available", reason=reason)


def _loaded_state(entry: Entry, version: int) -> Literal["serving", "loaded", "gone"]:
    if version not in entry.versions:
        return "gone"
    return "serving" if version == entry.served else "loaded"
