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


@dataclass(frozen=True)
class KnownDevice:
    """A device that a built-in provider serves; `rank` orders those of one device kind."""

    device: DeviceKind
    rank: int
    options: Mapping[str, str] = field(default_factory=dict)


#: TensorRT is behind CUDA: it builds its engines for minutes before the first answer.
KNOWN: Final[Mapping[str, tuple[KnownDevice, ...]]] = {
    CPU_PROVIDER: (KnownDevice("cpu", 0),),
    # The default searches convolutions exhaustively again for every new batch size.
    "CUDAExecutionProvider": (KnownDevice("gpu", 0, {"cudnn_conv_algo_search": "HEURISTIC"}),),
    "NvTensorRTRTXExecutionProvider": (KnownDevice("gpu", 10),),
    "TensorrtExecutionProvider": (KnownDevice("gpu", 11),),
    "MIGraphXExecutionProvider": (KnownDevice("gpu", 20),),
    "ROCMExecutionProvider": (KnownDevice("gpu", 21),),
    "DmlExecutionProvider": (KnownDevice("gpu", 30),),
    "OpenVINOExecutionProvider": (
        KnownDevice("gpu", 31, {"device_type": "GPU"}),
        KnownDevice("npu", 10, {"device_type": "NPU"}),
        KnownDevice("cpu", 10, {"device_type": "CPU"}),
    ),
    "WebGpuExecutionProvider": (KnownDevice("gpu", 40),),
    "QNNExecutionProvider": (KnownDevice("npu", 0, {"backend_type": "htp"}),),
    "CoreMLExecutionProvider": (
        KnownDevice("npu", 1, {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}),
    ),
    "VitisAIExecutionProvider": (KnownDevice("npu", 2),),
    "CANNExecutionProvider": (KnownDevice("npu", 3),),
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
