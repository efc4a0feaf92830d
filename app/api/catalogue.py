"""`GET /models`: what is served, how it was proved, and what it takes."""

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from app.bundle.manifest import Gate, Graph, Manifest
from app.bundle.signature import Signature
from app.engine.model import Model
from app.engine.plan import Plan
from app.engine.registry import Entry, Registry
from app.errors import ModelNotFound


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
    """A version of the repository. `reason` says why one is refused; it is empty otherwise."""

    version: int
    state: Literal["serving", "loaded", "refused", "available"]
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
        entry = registry().entries.get(name)
        if entry is None:
            raise ModelNotFound(f"no model {name[:64]!r} is in the repository")
        return _detail(registry().get(name), entry, registry())

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
        versions=[_version(entry, version) for version in entry.versions],
    )


def labels(manifest: Manifest) -> tuple[str, ...]:
    """The class labels, where the model has any."""
    for prediction in manifest.signature.predictions:
        if prediction.kind in ("label", "scores"):
            return prediction.labels
    return ()


def _version(entry: Entry, version: int) -> VersionState:
    if version == entry.served:
        return VersionState(version=version, state="serving", reason="")
    if version in entry.loaded:
        return VersionState(version=version, state="loaded", reason="")
    if version in entry.refused:
        return VersionState(version=version, state="refused", reason=entry.refused[version])
    return VersionState(version=version, state="available", reason="")
