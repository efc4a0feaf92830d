"""The servers that are measured: how each is started, and how each is asked."""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.bundle.manifest import MODEL_FILE
from bench import wires
from bench.cases import Case, Precision
from bench.child import NotStarted, Running, free_port, running
from bench.server import serving
from bench.wires import Wire
from bench.zoo import INT8_FILE, NETWORKS, Network

Starts = Callable[[Path, Precision, Wire], AbstractContextManager[Running]]
Makes = Callable[[Network], Wire]


@dataclass(frozen=True)
class Target:
    """One server.

    Args:
        precisions: of the graphs that it is measured with.
        start: serves a bundle's folder, given what must be answered before it counts as started.
        is_single_form: a process of it speaks one form only.
        wires: how it is asked, by network and form; the network "" is any.
    """

    name: str
    start: Starts
    wires: Mapping[tuple[str, str], Makes]
    precisions: Sequence[Precision] = ("fp32",)
    is_single_form: bool = False

    def speaks(self, case: Case) -> bool:
        return case.precision in self.precisions and self._maker(case) is not None

    def wire(self, case: Case) -> Wire:
        """
        Raises:
            LookupError: the server does not speak the form.
        """
        make = self._maker(case)
        if make is None:
            raise LookupError(f"{self.name} does not speak {case.form}")
        return make(NETWORKS[case.network])

    def _maker(self, case: Case) -> Makes | None:
        return self.wires.get((case.network, case.form)) or self.wires.get(("", case.form))


def model_file(bundle: Path, precision: Precision) -> Path:
    return bundle / (INT8_FILE if precision == "int8" else MODEL_FILE)


def _bare(_: Path, __: Precision, wire: Wire) -> AbstractContextManager[Running]:
    port = free_port()
    return running([sys.executable, "-m", "bench.bare", str(port)], port, wire.requests[0])


def _naive(bundle: Path, precision: Precision, wire: Wire) -> AbstractContextManager[Running]:
    port = free_port()
    model = str(model_file(bundle, precision))
    return running([sys.executable, "-m", "bench.naive", model, str(port)], port, wire.requests[0])


@contextmanager
def _modelport(bundle: Path, precision: Precision, _: Wire) -> Iterator[Running]:
    """As its users run it: nothing is set but the repository, the port and the precision."""
    try:
        with serving(bundle.parent.parent, precision=precision, cache="off") as server:
            yield Running(server.process.pid, server.port)
    except RuntimeError as error:
        raise NotStarted(str(error)) from None


def _unread(make: Makes) -> Makes:
    """The same requests, but the answers are a constant."""

    def made(network: Network) -> Wire:
        return Wire(make(network).requests, None)

    return made


def _infer(network: Network) -> str:
    return f"/v2/models/{network.name}/infer"


_FORMS: Final[Mapping[tuple[str, str], Makes]] = {
    ("", "oip-json"): lambda network: wires.oip_json(network, _infer(network)),
    ("", "oip-binary"): lambda network: wires.oip_binary(network, _infer(network)),
    ("", "typed"): lambda network: wires.typed(network, "/predict"),
    ("", "jpeg"): lambda _: wires.jpeg_file("/predict"),
}

_NAIVE_FORMS: Final[Mapping[tuple[str, str], Makes]] = {
    ("mlp", "oip-json"): lambda network: wires.plain_scores(
        lambda index: {"features": wires.numbers(network.make(index))}, "/features"
    ),
    ("mlp", "typed"): lambda network: wires.plain_scores(
        functools.partial(wires.named_numbers, network), "/row"
    ),
    ("cnn28", "oip-json"): lambda network: wires.plain_scores(
        lambda index: {"pixels": network.make(index)[0].astype(float).round(4).tolist()}, "/pixels"
    ),
    ("cnn224", "jpeg"): lambda _: wires.plain_scores(wires.picture_in_base64, "/picture"),
}

BARE: Final = Target("bare ASGI", _bare, {place: _unread(make) for place, make in _FORMS.items()})
NAIVE: Final = Target("naive", _naive, _NAIVE_FORMS)
MODELPORT: Final = Target("modelport", _modelport, _FORMS, ("fp32", "int8"))
