"""Other model servers: how each is started and asked."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.engine.cores import available_cores
from bench import wires
from bench.cases import Precision
from bench.child import Running, free_port, running
from bench.environments import NotInstalled, interpreter
from bench.networks import MAX_ROWS
from bench.targets import Makes, Starts, Target, model_file
from bench.wires import Wire
from bench.zoo import VARIANTS, Network, jpeg

#: From the interpreter and the port to the command that serves.
Command = Callable[[Path, int], Sequence[str]]

_START_WITHIN_S: Final = 90.0
#: What nobody asked for is not to be sent anywhere.
_SILENT: Final = {"BENTOML_DO_NOT_TRACK": "True", "ORT_DISABLE_TELEMETRY": "1"}
_BOUNDARY: Final = "bench-boundary"


def _module(name: str) -> Command:
    return lambda python, port: [str(python), "-m", f"bench.peers.{name}"]  # noqa: ARG005


def _starts(name: str, command: Command) -> Starts:
    """With the model file itself, in the environment that was made for the peer."""

    def start(bundle: Path, precision: Precision, wire: Wire) -> AbstractContextManager[Running]:
        port = free_port()
        given = {
            "BENCH_MODEL": str(model_file(bundle, precision)),
            "BENCH_PORT": str(port),
            "BENCH_CORES": str(available_cores().count),
            "BENCH_MAX_ROWS": str(MAX_ROWS),
            "BENCH_FORM": wire.form,
        }
        return running(
            command(interpreter(name), port),
            port,
            wire.requests[0],
            given | _SILENT,
            _START_WITHIN_S,
        )

    return start


def _mosec(python: Path, port: int) -> Sequence[str]:
    # Its limit of 3 s for a request would be the shortest of all; the others have 30 s or more.
    limits = ["--timeout", "30000", "--log-level", "warning"]
    return [*_module("mosec")(python, port), "--port", str(port), *limits]


def _bentoml(python: Path, port: int) -> Sequence[str]:
    program = str(python.with_name("bentoml"))
    return [program, "serve", "bench.peers.bentoml:Scores", "--port", str(port)]


def _rows_in_json(network: Network, path: str) -> Wire:
    """`{"x": [row]}`, answered with the scores of each row."""

    def requests(index: int) -> Any:
        return {"x": [network.make(index).astype(float).round(4).tolist()]}

    sent = wires.plain_scores(requests, path)
    return Wire(sent.requests, lambda _, body: json.loads(body)[0])


def _picture_files(path: str) -> Wire:
    """A JPEG file as a form's field, as browsers send it."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode()
    tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    return Wire(
        tuple(wires.post(path, head + jpeg(i) + tail, kind) for i in range(VARIANTS)),
        lambda _, body: np.array(json.loads(body)[0]),
    )


def _own_forms(path: str) -> Mapping[tuple[str, str], Makes]:
    """Of servers that leave their form to the user."""
    return {
        ("mlp", "oip-json"): lambda network: wires.oip_json(network, path),
        ("cnn28", "oip-json"): lambda network: wires.oip_json(network, path),
        ("", "oip-binary"): lambda network: wires.raw_tensor(network, path),
        ("", "jpeg"): lambda _: wires.jpeg_bytes(path),
    }


_INFER: Final = "/v2/models/m/infer"
_BENTOML_FORMS: Final[Mapping[tuple[str, str], Makes]] = {
    ("mlp", "oip-json"): lambda network: _rows_in_json(network, "/rows"),
    ("cnn28", "oip-json"): lambda network: _rows_in_json(network, "/rows"),
    ("cnn224", "jpeg"): lambda _: _picture_files("/pictures"),
}
_OIP_JSON: Final[Mapping[tuple[str, str], Makes]] = {
    ("mlp", "oip-json"): lambda network: wires.oip_json(network, _INFER),
    ("cnn28", "oip-json"): lambda network: wires.oip_json(network, _INFER),
}
_OIP_BINARY: Final[Mapping[tuple[str, str], Makes]] = {
    ("", "oip-binary"): lambda network: wires.oip_binary(network, _INFER)
}

PEERS: Final[Sequence[Target]] = (
    Target("mosec", _starts("mosec", _mosec), _own_forms("/inference"), is_single_form=True),
    Target(
        "litserve",
        _starts("litserve", _module("litserve")),
        _own_forms("/predict"),
        is_single_form=True,
    ),
    Target("bentoml", _starts("bentoml", _bentoml), _BENTOML_FORMS),
    Target("mlserver", _starts("mlserver", _module("mlserver")), _OIP_JSON),
    Target("pytriton", _starts("pytriton", _module("pytriton")), {**_OIP_JSON, **_OIP_BINARY}),
)


def ready_peers(peers: Sequence[Target]) -> tuple[list[Target], dict[str, str]]:
    """Those that could be installed, and why others could not."""
    ready: list[Target] = []
    absent: dict[str, str] = {}
    for peer in peers:
        try:
            interpreter(peer.name)
            ready.append(peer)
        except NotInstalled as error:
            absent[peer.name] = str(error)
    return ready, absent
