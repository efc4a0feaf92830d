"""Open Inference Protocol v2 over REST.

Source: KServe's "Open Inference Protocol (V2)" specification and its "Binary Tensor Data
Extension".
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.routing import Route

from app import __version__
from app.api.codecs import JSON, NPY, OCTETS, WireFormat, npy_tensor
from app.api.codecs.oip import OipCodec
from app.api.endpoint import InferenceEndpoint
from app.api.handler import Handler, InferenceRoute
from app.bundle.signature import Signature, TensorSpec
from app.engine.model import Model
from app.engine.versions.registry import Registry
from app.errors import NotReady
from app.settings import Settings

INFER_PATHS: Final = (
    "/v2/models/{name}/infer",
    "/v2/models/{name}/versions/{version}/infer",
)
_EXTENSIONS: Final = ["binary_tensor_data"]


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool


class ModelReady(BaseModel):
    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A free dim is -1."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


def formats(settings: Settings) -> list[WireFormat]:
    """The wire formats of tensors; JSON where a request names none."""
    rows = settings.max_request_rows
    # JSON needs at least two bytes a value, a tensor at most eight.
    size = 4 * settings.max_body_bytes

    def tensors(signature: Signature) -> OipCodec:
        return OipCodec(signature, rows, size)

    def raw_tensors(signature: Signature) -> OipCodec:
        return OipCodec(signature, rows, size, raw_only=True)

    def array(signature: Signature) -> npy_tensor.TensorNpyCodec:
        return npy_tensor.TensorNpyCodec(signature, rows, size)

    return [
        WireFormat((JSON,), tensors, divisible=True),
        WireFormat((OCTETS,), raw_tensors, divisible=True),
        WireFormat((NPY,), array, npy_tensor.fits),
    ]


def infer_routes(settings: Settings, handler: Callable[[], Handler]) -> list[Route]:
    route = InferenceRoute("infer", *formats(settings))
    endpoint = InferenceEndpoint(route, handler, settings.body_timeout_s)
    return [Route(path, endpoint, methods=["POST"]) for path in INFER_PATHS]


def router(is_ready: Callable[[], bool], registry: Callable[[], Registry]) -> APIRouter:
    routes = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @routes.get("", operation_id="v2_server", summary="Server metadata")
    async def server() -> ServerMetadata:
        return ServerMetadata(name="modelport", version=__version__, extensions=_EXTENSIONS)

    @routes.get("/health/live", operation_id="v2_live", summary="Server is live")
    async def live() -> Live:
        return Live(live=True)

    @routes.get("/health/ready", operation_id="v2_ready", summary="Server is ready")
    async def ready() -> Ready:
        if not is_ready():
            raise NotReady("the service is starting or shutting down")
        return Ready(ready=True)

    _model_routes(routes, registry)
    return routes


def _model_routes(routes: APIRouter, registry: Callable[[], Registry]) -> None:
    @routes.get("/models/{name}", operation_id="v2_model", summary="Model metadata")
    async def model(name: str) -> ModelMetadata:
        return _metadata(registry().get(name), registry())

    @routes.get(
        "/models/{name}/versions/{version}",
        operation_id="v2_model_version",
        summary="Metadata of a version",
    )
    async def version(name: str, version: str) -> ModelMetadata:
        return _metadata(registry().get(name, version), registry())

    @routes.get("/models/{name}/ready", operation_id="v2_model_ready", summary="Model is ready")
    async def model_ready(name: str) -> ModelReady:
        return ModelReady(name=registry().get(name).name, ready=True)

    @routes.get(
        "/models/{name}/versions/{version}/ready",
        operation_id="v2_model_version_ready",
        summary="Version is ready",
    )
    async def version_ready(name: str, version: str) -> ModelReady:
        return ModelReady(name=registry().get(name, version).name, ready=True)


def _metadata(model: Model, registry: Registry) -> ModelMetadata:
    signature = model.manifest.signature
    return ModelMetadata(
        name=model.name,
        versions=[str(version) for version in registry.entries[model.name].loaded],
        platform="onnxruntime_onnx",
        inputs=_tensors(signature.inputs),
        outputs=_tensors(signature.outputs),
    )


def _tensors(specs: Sequence[TensorSpec]) -> list[TensorMetadata]:
    return [
        TensorMetadata(
            name=spec.name,
            datatype=spec.datatype,
            shape=[_size(dim) for dim in spec.shape],
        )
        for spec in specs
    ]


def _size(dim: Any) -> int:
    return dim if isinstance(dim, int) else -1
