"""Liveness, readiness and metrics, for operators."""

from collections.abc import Callable

from fastapi import APIRouter, Response
from pydantic import BaseModel

from app.errors import NotReady
from app.ops.metrics import CONTENT_TYPE, Metrics


class Health(BaseModel):
    status: str


def router(is_ready: Callable[[], bool], metrics: Metrics) -> APIRouter:
    routes = APIRouter(tags=["health"])

    # Some load balancers ask with HEAD.
    @routes.head("/health/live", include_in_schema=False)
    @routes.get("/health/live", operation_id="health_live", summary="The process runs")
    async def live() -> Health:
        return Health(status="live")

    @routes.head("/health/ready", include_in_schema=False)
    @routes.get("/health/ready", operation_id="health_ready", summary="The service takes requests")
    async def ready() -> Health:
        if not is_ready():
            raise NotReady("the service is starting or shutting down")
        return Health(status="ready")

    @routes.get(
        "/metrics",
        operation_id="metrics",
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def prometheus() -> Response:
        return Response(await metrics.page(), media_type=CONTENT_TYPE)

    return routes
