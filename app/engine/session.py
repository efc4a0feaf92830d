"""One open model on one execution provider. The only file that touches `InferenceSession`.

Everything that ONNX Runtime raises is translated here into `SessionFailed`.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Final

import onnxruntime

from app.bundle.signature import DIM_PATTERN, Dim, Signature, TensorSpec
from app.bundle.tensors import Array, Datatype, Tensors
from app.engine.providers.candidates import CPU_PROVIDER, Candidate, known_device
from app.engine.providers.installed import listed_devices, register_library
from app.errors import BundleUnsupported, SessionFailed

_DATATYPES: Final[Mapping[str, Datatype]] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_FATAL_ONLY: Final = 4
_MAX_MESSAGE_CHARACTERS: Final = 200


class Session:
    """An open model; `run` may be called from many threads at once."""

    def __init__(self, session: Any) -> None:
        """Use `open`."""
        self._session: Any = session
        self.inputs: Final = _specs("input", session.get_inputs())
        self.outputs: Final = _specs("output", session.get_outputs())
        #: How many graph nodes, after optimisation, run on each execution provider. Empty where
        #: this build of ONNX Runtime does not tell.
        self.nodes_by_provider: Final = MappingProxyType(_nodes_by_provider(session))
        self._output_names: Final = [spec.name for spec in self.outputs]

    @classmethod
    def open(cls, model: bytes, candidate: Candidate, intra_op_threads: int) -> "Session":
        """Load an ONNX file onto a candidate; what it does not claim runs on the CPU provider.

        Raises:
            SessionFailed: ONNX Runtime or the provider refused.
            BundleUnsupported: an input or output is not a tensor of the protocol's datatypes.
        """
        with _OPENING:
            options = _session_options(candidate, intra_op_threads)
            # Without `enable_fallback=0` a failure is printed and the CPU provider silently used.
            session = onnxruntime.InferenceSession(
                model,
                options,
                providers=_select(options, candidate),
                enable_fallback=0,
                read_config_from_model=0,
            )
        return cls(session)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """All outputs by name; BYTES tensors are object arrays of `str` both ways.

        Raises:
            SessionFailed: the run failed, or the session is closed.
        """
        session = self._session  # A run that has begun keeps the session alive past `close`.
        if session is None:
            raise SessionFailed("the session is closed")
        with _RUNNING:
            given = inputs if type(inputs) is dict else dict(inputs)
            arrays = session.run(self._output_names, given)
        return dict(zip(self._output_names, arrays, strict=True))

    def matches(self, signature: Signature) -> str | None:
        """None where the signature describes this graph, else the first difference.

        Ranks and fixed dims are compared for inputs only: files declare wrong output shapes, and
        golden rows prove the real ones.
        """
        return (
            _names_differ("input", signature.inputs, self.inputs)
            or _names_differ("output", signature.outputs, self.outputs)
            or _shapes_differ(signature.inputs, self.inputs)
        )

    def close(self) -> None:
        """Let go of the session; runs that have begun finish. May be called again."""
        self._session = None


class _Translated:
    """The one place where foreign exceptions become `SessionFailed`.

    ONNX Runtime's exceptions share no base class, and its bindings and plug-ins add RuntimeError,
    ValueError, MemoryError and more; inside this block all of them come from there.
    """

    def __init__(self, action: str, told: re.Pattern[str]) -> None:
        self._action = action
        self._told = told

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, SessionFailed):
            raise SessionFailed(f"{self._action}: {_explain(error, self._told)}") from error


#: What may be told of a failed run: names, shapes and types, but never a value of an input.
_HARMLESS: Final = re.compile(
    r"Got invalid dimensions for input: .*|Invalid rank for input: .*"
    r"|Unexpected input data type\. .*|Required inputs .* are missing"
)
_OPENING: Final = _Translated("the model cannot be opened", re.compile(".*"))
_RUNNING: Final = _Translated("the model failed to run", _HARMLESS)

_HEAD: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ")
#: Where in the runtime's C++ sources it failed: file, line and function.
_SOURCE: Final = re.compile(r"\S+\.(?:cc|cpp|cu|h):\d+ .*?\)(?: const)? (?=\S)")
_FAILED_NODE: Final = re.compile(r"while running (\w+) node")
#: Anything with a slash: files of the machine or of the build, and node names that look like them.
_PATH: Final = re.compile(r"(?:\b[A-Za-z]:)?[^\s'\"(\[,;]*[\\/][^\s'\")\],;]*")


def _explain(error: Exception, told: re.Pattern[str]) -> str:
    """A short reason in one line, without paths."""
    text = str(error)
    head = _HEAD.match(text)
    code = head[1] if head else type(error).__name__
    said = _SOURCE.sub("", text[head.end() :] if head else text)
    harmless = told.match(said)
    if harmless and harmless[0]:
        line = _PATH.sub("…", harmless[0]).strip()
        return f"{line[:_MAX_MESSAGE_CHARACTERS]} ({code})"
    node = _FAILED_NODE.search(said)
    return f"{code} in {node[1]}" if node else code


def _session_options(candidate: Candidate, intra_op_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Failures are raised, and logged by us; stderr would hold each a second time, with inputs.
    options.log_severity_level = _FATAL_ONLY
    options.enable_mem_pattern = known_device(candidate).memory_pattern
    for key, value in (
        ("session.intra_op.allow_spinning", "0"),
        ("session.inter_op.allow_spinning", "0"),
        ("session.record_ep_graph_assignment_info", "1"),
        ("session.load_model_format", "ONNX"),
        # Weights in other files would be sought in the working directory; a bundle has none.
        ("session.model_external_initializers_file_folder_path", os.devnull),
    ):
        options.add_session_config_entry(key, value)
    return options


def _select(options: Any, candidate: Candidate) -> list[Any] | None:
    """Put the candidate into `options` (a listed device) or return it as a list of providers."""
    if candidate.device_index is not None:
        register_library(candidate)
        devices = listed_devices(onnxruntime, candidate)
        if candidate.device_index >= len(devices):
            raise SessionFailed(f"{candidate.provider} lists no device {candidate.device_index}")
        options.add_provider_for_devices([devices[candidate.device_index]], dict(candidate.options))
        return None
    if candidate.provider not in onnxruntime.get_available_providers():
        # ONNX Runtime would only warn, and run on the CPU.
        raise SessionFailed(f"{candidate.provider} is not part of this ONNX Runtime")
    chosen = (candidate.provider, dict(candidate.options))
    return [chosen] if candidate.provider == CPU_PROVIDER else [chosen, CPU_PROVIDER]


def _nodes_by_provider(session: Any) -> dict[str, int]:
    try:
        subgraphs = session.get_provider_graph_assignment_info()
    except Exception:  # Older runtimes lack it; nothing but the share of nodes depends on it.
        return {}
    counts: Counter[str] = Counter()
    for subgraph in subgraphs:
        counts[subgraph.ep_name] += len(subgraph.get_nodes())
    return dict(counts)


def _specs(side: str, arguments: Sequence[Any]) -> tuple[TensorSpec, ...]:
    specs = []
    for index, argument in enumerate(arguments):
        datatype = _DATATYPES.get(argument.type)
        if datatype is None:
            raise BundleUnsupported(
                f"{side} {argument.name!r} is a {argument.type}, which cannot be served"
            )
        dims = tuple(
            _dim(dim, f"{side}{index}_dim{axis}" if axis else "batch")
            for axis, dim in enumerate(argument.shape)
        )
        specs.append(TensorSpec(name=argument.name, datatype=datatype, shape=dims))
    return tuple(specs)


def _dim(dim: int | str | None, free_name: str) -> Dim:
    """A size, the file's own name for a free dim, or `free_name` for None, -1, "?" and sums."""
    if isinstance(dim, int):
        return dim if dim >= 0 else free_name
    return dim if dim and re.match(DIM_PATTERN, dim) else free_name


def _names_differ(
    side: str, wanted: Sequence[TensorSpec], found: Sequence[TensorSpec]
) -> str | None:
    datatypes = {spec.name: spec.datatype for spec in found}
    extra = datatypes.keys() - {spec.name for spec in wanted}
    if extra:
        return f"the graph has {side} {min(extra)!r}, which the signature lacks"
    for spec in wanted:
        if spec.name not in datatypes:
            return f"the graph has no {side} {spec.name!r}"
        if spec.datatype != datatypes[spec.name]:
            return (
                f"{side} {spec.name!r} is {datatypes[spec.name]} in the graph, "
                f"{spec.datatype} in the signature"
            )
    return None


def _shapes_differ(wanted: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> str | None:
    shapes = {spec.name: spec.shape for spec in found}
    for spec in wanted:
        shape = shapes[spec.name]
        if not shape:  # A scalar, or a rank that the file does not declare: they look the same.
            continue
        fits = len(shape) == len(spec.shape) and all(
            here == there
            for here, there in zip(shape, spec.shape, strict=True)
            if isinstance(here, int) and isinstance(there, int)
        )
        if not fits:
            return (
                f"input {spec.name!r} has shape {_written(shape)} in the graph, "
                f"{_written(spec.shape)} in the signature"
            )
    return None


def _written(shape: Sequence[Dim]) -> str:
    return f"[{', '.join(str(dim) for dim in shape)}]"
