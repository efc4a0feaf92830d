"""What is known of execution providers (EPs): the devices they serve, their options, their place.

A table, so that what differs between kinds of hardware is data and not code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

DeviceKind = Literal["cpu", "gpu", "npu"]
Origin = Literal["built-in", "plug-in"]

CPU_PROVIDER: Final = "CPUExecutionProvider"


@dataclass(frozen=True)
class Candidate:
    """An execution provider on one device. Plain data: it means the same in a child process."""

    provider: str
    device: DeviceKind
    #: Vendor and description, as far as the provider tells.
    device_name: str = ""
    origin: Origin = "built-in"
    options: Mapping[str, str] = field(default_factory=dict)
    #: Position among the devices that ONNX Runtime lists for this provider; None for one that is
    #: opened by name.
    device_index: int | None = None
    #: The plug-in library's registered name; None for what the runtime brings.
    library: str | None = None
    #: Where the library lies, and the version of the package that brought it.
    library_path: str | None = None
    library_version: str = ""


@dataclass(frozen=True)
class KnownDevice:
    """A device that a built-in provider serves; `rank` orders those of one device kind.

    Attributes:
        options: the provider's own, where ONNX Runtime's defaults are not best for a server.
        memory_pattern: whether the session may plan its memory ahead; some providers cannot.
        trial_s: time to open a model and run the golden rows; compilers take minutes.
    """

    device: DeviceKind
    rank: int
    options: Mapping[str, str] = field(default_factory=dict)
    memory_pattern: bool = True
    trial_s: float = 60.0


_GPU_TRIAL_S: Final = 120.0
_COMPILER_TRIAL_S: Final = 300.0
_TENSORRT_TRIAL_S: Final = 900.0

#: TensorRT is behind CUDA: it builds its engines for minutes before the first answer.
KNOWN: Final[Mapping[str, tuple[KnownDevice, ...]]] = {
    CPU_PROVIDER: (KnownDevice("cpu", 0),),
    "CUDAExecutionProvider": (
        KnownDevice(
            "gpu",
            0,
            {
                # The default searches convolutions exhaustively again for every new batch size.
                "cudnn_conv_algo_search": "HEURISTIC",
                # The default doubles, which takes memory that other models could use.
                "arena_extend_strategy": "kSameAsRequested",
            },
            trial_s=_GPU_TRIAL_S,
        ),
    ),
    "NvTensorRTRTXExecutionProvider": (KnownDevice("gpu", 10, trial_s=_COMPILER_TRIAL_S),),
    "TensorrtExecutionProvider": (
        KnownDevice("gpu", 11, {"trt_fp16_enable": "0"}, trial_s=_TENSORRT_TRIAL_S),
    ),
    "MIGraphXExecutionProvider": (KnownDevice("gpu", 20, trial_s=_COMPILER_TRIAL_S),),
    "ROCMExecutionProvider": (KnownDevice("gpu", 21, trial_s=_GPU_TRIAL_S),),
    "DmlExecutionProvider": (KnownDevice("gpu", 30, memory_pattern=False, trial_s=_GPU_TRIAL_S),),
    "OpenVINOExecutionProvider": (
        KnownDevice("gpu", 31, {"device_type": "GPU"}, trial_s=_GPU_TRIAL_S),
        KnownDevice("npu", 10, {"device_type": "NPU"}, trial_s=_COMPILER_TRIAL_S),
        KnownDevice("cpu", 10, {"device_type": "CPU"}),
    ),
    "WebGpuExecutionProvider": (KnownDevice("gpu", 40, trial_s=_GPU_TRIAL_S),),
    "QNNExecutionProvider": (
        KnownDevice(
            "npu",
            0,
            {"backend_type": "htp", "htp_performance_mode": "burst"},
            trial_s=_COMPILER_TRIAL_S,
        ),
    ),
    "CoreMLExecutionProvider": (
        KnownDevice(
            "npu",
            1,
            {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"},
            trial_s=_COMPILER_TRIAL_S,
        ),
    ),
    "VitisAIExecutionProvider": (KnownDevice("npu", 2, trial_s=_COMPILER_TRIAL_S),),
    "CANNExecutionProvider": (KnownDevice("npu", 3, trial_s=_COMPILER_TRIAL_S),),
    "NnapiExecutionProvider": (KnownDevice("npu", 4),),
    "VSINPUExecutionProvider": (KnownDevice("npu", 5),),
    "RknpuExecutionProvider": (KnownDevice("npu", 6),),
    "DnnlExecutionProvider": (KnownDevice("cpu", 20),),
    "XnnpackExecutionProvider": (KnownDevice("cpu", 21),),
    "ACLExecutionProvider": (KnownDevice("cpu", 22),),
}
#: Where a provider stands among those of its device kind when the table does not have it.
UNKNOWN_RANK: Final = 50
#: Which kinds of device come first.
DEVICE_ORDER: Final[Mapping[DeviceKind, int]] = {"gpu": 0, "npu": 1, "cpu": 2}


def known_device(candidate: Candidate) -> KnownDevice:
    """What the table has of a candidate, or what holds for an unknown one."""
    for known in KNOWN.get(candidate.provider, ()):
        if known.device == candidate.device:
            return known
    limits = {"gpu": _GPU_TRIAL_S, "npu": _COMPILER_TRIAL_S}
    return KnownDevice(
        candidate.device, UNKNOWN_RANK, trial_s=limits.get(candidate.device, KnownDevice.trial_s)
    )
