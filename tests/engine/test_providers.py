import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.providers.installed import Discovery, Problem, discover
from app.engine.providers.ranking import Choice, Ranking, rank

CPU = Candidate(CPU_PROVIDER, "cpu", "AMD")
CUDA = Candidate("CUDAExecutionProvider", "gpu")
TENSORRT = Candidate("TensorrtExecutionProvider", "gpu")
QNN = Candidate("QNNExecutionProvider", "npu")
OPENVINO_CPU = Candidate("OpenVINOExecutionProvider", "cpu", options={"device_type": "CPU"})
OPENVINO_GPU = Candidate("OpenVINOExecutionProvider", "gpu", options={"device_type": "GPU"})
GGML = Candidate("ggml", "cpu", "AMD", "plug-in", device_index=0, library="ggml")
NXRT = Candidate("cpu_ep", "cpu", "AMD", "plug-in", device_index=0, library="nxrt_ep_cpu")
WEBGPU = Candidate("WebGpuExecutionProvider", "gpu", origin="plug-in", device_index=0)
CATALOGUE = (GGML, CPU, TENSORRT, OPENVINO_CPU, QNN, OPENVINO_GPU, CUDA, NXRT, WEBGPU)


def chosen(ranking: Ranking) -> list[Candidate]:
    return [choice.candidate for choice in ranking.order]


# What is installed


def test_auto_on_a_machine_with_nothing_else_is_the_cpu_provider(discovery: Discovery) -> None:
    first = rank(discovery.candidates).order[0]

    if any(candidate.device != "cpu" for candidate in discovery.candidates):
        pytest.skip("this machine has an accelerator")
    assert first.candidate.provider == CPU_PROVIDER
    assert first.reason == "auto: built-in on the cpu"


def test_the_cpu_provider_is_found_once_and_azure_never(discovery: Discovery) -> None:
    names = [candidate.provider for candidate in discovery.candidates]

    assert names.count(CPU_PROVIDER) == 1
    assert "AzureExecutionProvider" not in names


# What could be installed


class FakeRuntime:
    """Lists what it is told to, and a device for each library whose path is in `plugs`."""

    def __init__(
        self, available: Sequence[str], plugs: Mapping[str, tuple[str, str]] | None = None
    ) -> None:
        self.available = list(available)
        self.plugs = plugs or {}
        self.registered: dict[str, str] = {}

    def get_available_providers(self) -> list[str]:
        return self.available + [ep for ep, _ in self._plugged().values()]

    def get_ep_devices(self) -> list[Any]:
        return [device("CPUExecutionProvider", "CPU")] + [
            device(ep, kind, path) for path, (ep, kind) in self._plugged().items()
        ]

    def register_execution_provider_library(self, name: str, path: str, /) -> None:
        if name in self.registered:
            raise RuntimeError(f"EP library is already registered under {name}")
        if path.endswith("broken.so"):
            raise RuntimeError("Failed to load library: invalid ELF header\nmore")
        self.registered[name] = path

    def _plugged(self) -> dict[str, tuple[str, str]]:
        loaded = self.registered.values()
        return {path: plug for path, plug in self.plugs.items() if path in loaded}


def device(ep_name: str, kind: str, path: str | None = None) -> Any:
    hardware = SimpleNamespace(type=SimpleNamespace(name=kind), vendor="Acme", metadata={})
    metadata = {} if path is None else {"library_path": path}
    return SimpleNamespace(ep_name=ep_name, device=hardware, ep_metadata=metadata)


class FakePackage(importlib.metadata.Distribution):
    """An installed distribution with a library in it, or with the given files."""

    def __init__(self, name: str, summary: str = "", files: Sequence[str] | None = None) -> None:
        module = name.replace("-", "_")
        self._files = [f"{module}/__init__.py", f"{module}/lib.so"] if files is None else files
        self._metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\nSummary: {summary}\n"

    def read_text(self, filename: str) -> str | None:
        if filename == "METADATA":
            return self._metadata
        if filename == "RECORD":
            return "".join(f"{name},,\n" for name in self._files)
        return None

    def locate_file(self, path: Any) -> Path:
        return Path(__file__)  # Files that do not exist are left out of `files`.


def modules(**found: Any) -> Any:
    def import_module(name: str) -> Any:
        if name not in found:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return found[name]

    return import_module


def test_a_plugin_is_registered_under_its_own_name() -> None:
    runtime = FakeRuntime([CPU_PROVIDER], {"/x/lib.so": ("AcmeProvider", "NPU")})
    module = SimpleNamespace(get_library_path=lambda: "/x/lib.so", get_ep_name=lambda: "acme")

    found = discover(
        runtime, [FakePackage("onnxruntime-ep-acme")], modules(onnxruntime_ep_acme=module)
    )

    assert runtime.registered == {"acme": "/x/lib.so"}
    assert found == Discovery(
        (
            Candidate(CPU_PROVIDER, "cpu", "Acme"),
            Candidate(
                "AcmeProvider",
                "npu",
                "Acme",
                "plug-in",
                device_index=0,
                library="acme",
                library_path="/x/lib.so",
                library_version="1",
            ),
        )
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (SimpleNamespace(library_path=lambda: "/x.so", EP_NAME="a"), "a"),
        (SimpleNamespace(get_library_path=lambda: "/x.so", REGISTRATION_NAME="b"), "b"),
        (SimpleNamespace(get_library_path=lambda: "/x.so"), "x-ep-cpu"),
    ],
)
def test_the_conventions_for_names(module: Any, name: str) -> None:
    runtime = FakeRuntime([CPU_PROVIDER])

    found = discover(
        runtime, [FakePackage("x-ep-cpu", "plug-in for ONNX Runtime")], modules(x_ep_cpu=module)
    )

    assert runtime.registered == {name: "/x.so"}
    assert found.problems == (Problem("x-ep-cpu", "lists no device on this machine"),)


@pytest.mark.parametrize(
    "package",
    [
        FakePackage("onnxruntime-extensions"),
        FakePackage("onnxruntime-genai-cuda"),
        FakePackage("onnxruntime-easy", files=["onnxruntime_easy/__init__.py"]),
        FakePackage("onnxruntime-gpu", files=["onnxruntime/__init__.py", "onnxruntime/capi/x.so"]),
        FakePackage("dig-ass-ep-protos", "protocol files"),
        FakePackage("deep-learning", "for ONNX Runtime"),
        FakePackage("numpy"),
    ],
    ids=lambda package: package.name,
)
def test_other_packages_are_never_imported(package: FakePackage) -> None:
    found = discover(FakeRuntime([CPU_PROVIDER]), [package], modules())

    assert found.problems == ()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (None, "No module named 'onnxruntime_ep_acme'"),
        (SimpleNamespace(), "it has neither get_library_path nor library_path"),
        (
            SimpleNamespace(library_path=lambda: "/broken.so"),
            "Failed to load library: invalid ELF header",
        ),
    ],
)
def test_a_plugin_that_does_not_load_is_a_problem(module: Any, reason: str) -> None:
    found = {} if module is None else {"onnxruntime_ep_acme": module}

    discovery = discover(
        FakeRuntime([CPU_PROVIDER]), [FakePackage("onnxruntime-ep-acme")], modules(**found)
    )

    assert discovery.problems == (Problem("onnxruntime-ep-acme", f"cannot be loaded: {reason}"),)
    assert [c.provider for c in discovery.candidates] == [CPU_PROVIDER]


def test_two_builds_of_the_runtime_clash() -> None:
    builds = [
        FakePackage(name, files=["onnxruntime/__init__.py"])
        for name in ("onnxruntime", "onnxruntime-gpu")
    ]

    found = discover(FakeRuntime([CPU_PROVIDER]), builds, modules())

    assert found.problems[0].reason.startswith("onnxruntime and onnxruntime-gpu are installed")


def test_a_damaged_package_is_passed_over() -> None:
    class Damaged(FakePackage):
        def read_text(self, filename: str) -> str | None:
            return None

    assert discover(FakeRuntime([CPU_PROVIDER]), [Damaged("x")], modules()).problems == ()


def test_built_in_providers_have_devices_and_options() -> None:
    runtime = FakeRuntime(
        ["CUDAExecutionProvider", "OpenVINOExecutionProvider", "AzureExecutionProvider", "Odd"]
    )

    found = discover(runtime, [], modules()).candidates

    assert found == (
        Candidate(
            "CUDAExecutionProvider",
            "gpu",
            options={
                "cudnn_conv_algo_search": "HEURISTIC",
                "arena_extend_strategy": "kSameAsRequested",
            },
        ),
        OPENVINO_GPU,
        Candidate("OpenVINOExecutionProvider", "npu", options={"device_type": "NPU"}),
        OPENVINO_CPU,
        Candidate("Odd", "cpu"),
    )


def test_a_library_in_the_runtimes_own_wheel_is_built_in() -> None:
    runtime = FakeRuntime([CPU_PROVIDER], {"/x/cuda.so": ("CUDAExecutionProvider", "GPU")})
    runtime.registered["CUDAExecutionProvider"] = "/x/cuda.so"

    found = discover(runtime, [], modules()).candidates

    assert found[1] == Candidate("CUDAExecutionProvider", "gpu", "Acme", device_index=0)


# Ranking


def test_auto_goes_by_device_then_provider() -> None:
    ranking = rank(CATALOGUE)

    assert chosen(ranking) == [
        CUDA,
        TENSORRT,
        OPENVINO_GPU,
        WEBGPU,
        QNN,
        CPU,
        OPENVINO_CPU,
        NXRT,
        GGML,
    ]
    assert ranking.order[0] == Choice(CUDA, "auto: built-in on the gpu")
    assert ranking.rejections == ()


def test_the_order_of_discovery_does_not_matter() -> None:
    assert rank(CATALOGUE) == rank(CATALOGUE[::-1])


@pytest.mark.parametrize(
    ("name", "candidate"),
    [
        ("cuda", CUDA),
        ("CUDAExecutionProvider", CUDA),
        (" Cuda:GPU ", CUDA),
        ("openvino:gpu", OPENVINO_GPU),
        ("trt", TENSORRT),
        ("ggml", GGML),
        ("cpu_ep", NXRT),
        ("nxrt_ep_cpu", NXRT),
    ],
)
def test_a_name_is_followed_by_the_last_resort(name: str, candidate: Candidate) -> None:
    ranking = rank(CATALOGUE, (name,))

    assert ranking.order == (
        Choice(candidate, f"asked for as {name!r}"),
        Choice(CPU, "last resort behind what was asked for", fallback=True, group=1),
    )


def test_asking_for_the_cpu_is_not_a_fallback() -> None:
    assert rank(CATALOGUE, ("cpu",)).order == (Choice(CPU, "asked for as 'cpu'"),)


def test_a_list_keeps_its_order() -> None:
    assert chosen(rank(CATALOGUE, ("ggml", "openvino", "ggml:cpu"))) == [
        GGML,
        OPENVINO_GPU,
        OPENVINO_CPU,
        CPU,
    ]


def test_auto_behind_a_name_is_the_rest() -> None:
    assert chosen(rank((CPU, GGML, CUDA), ("ggml", "auto"))) == [GGML, CUDA, CPU]


def test_those_of_one_name_are_a_group_and_the_last_resort_is_one() -> None:
    groups = rank(CATALOGUE, ("openvino", "cuda:gpu", "nowhere")).groups()

    assert [[choice.candidate for choice in group] for group in groups] == [
        [OPENVINO_GPU, OPENVINO_CPU],
        [CUDA],
        [CPU],
    ]
    assert [choice.fallback for group in groups for choice in group] == [False, False, False, True]


def test_auto_is_one_group() -> None:
    assert [len(group) for group in rank(CATALOGUE).groups()] == [len(CATALOGUE)]
    assert rank((), ("cuda",)).groups() == []


def test_no_request_is_auto() -> None:
    assert rank(CATALOGUE, ()) == rank(CATALOGUE, ("auto",))


@pytest.mark.parametrize("name", ["cuda", "ggml:gpu", "typo"])
def test_an_absent_name_is_a_rejection(name: str) -> None:
    ranking = rank((CPU, GGML), (name,))

    assert chosen(ranking) == [CPU]
    assert ranking.rejections[0].provider == name
    assert ranking.rejections[0].reason == (
        "is not available here; available: CPUExecutionProvider:cpu, ggml:cpu"
    )


def test_strict_appends_nothing() -> None:
    assert chosen(rank(CATALOGUE, ("ggml",), strict=True)) == [GGML]
    assert chosen(rank((CPU,), ("cuda",), strict=True)) == []
