"""The measurements in their order: what drifts meanwhile drifts for every server alike.

For each model, all its servers are started. Then, in each repeat, every case and every load is put
on one server after the other, while those whose turn it is not are stopped.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from app.bundle.tensors import Array
from bench import raw, wrk
from bench.cases import Case, Precision
from bench.child import NotStarted, Running, ask
from bench.generator import Generator, Job, Outcome
from bench.process_tree import pause, resume
from bench.progress import Progress
from bench.raw import Raw
from bench.runtime import INPUT
from bench.targets import Target, model_file
from bench.wires import Wire, WrongAnswer
from bench.zoo import NETWORKS, VARIANTS, publish_bundle, row_by_row

#: Of the seconds of a cell, what goes before them unmeasured; at least so much.
_WARM_SHARE: Final = 0.25
_LEAST_WARM_S: Final = 0.3
_RAW_SHARE: Final = 0.25
STEADY_CONNECTIONS: Final = 64


@dataclass(frozen=True)
class Load:
    """Connections of a closed loop, or an open loop at the case's steady rate."""

    connections: int
    is_open: bool = False

    def __str__(self) -> str:
        return "steady" if self.is_open else str(self.connections)


@dataclass(frozen=True)
class Plan:
    cases: Sequence[Case]
    targets: Sequence[Target]
    loads: Sequence[Load]
    seconds: float
    repeats: int
    with_raw: bool = True
    #: Where wrk runs beside the load generator, as a cross-check; None for not at all.
    wrk_cores: Sequence[int] | None = None

    @property
    def warm_s(self) -> float:
        return max(_LEAST_WARM_S, _WARM_SHARE * self.seconds)

    def groups(self) -> dict[tuple[str, Precision], list[Case]]:
        """Cases that the same running servers answer, by network and precision."""
        groups: dict[tuple[str, Precision], list[Case]] = {}
        for case in self.cases:
            groups.setdefault((case.network, case.precision), []).append(case)
        return groups


@dataclass(frozen=True)
class Cell:
    """A place of the table."""

    case: str
    load: str
    server: str


@dataclass
class Results:
    """Everything that was seen; the lists have one entry a repeat."""

    cells: dict[Cell, list[Outcome]] = field(default_factory=dict)
    #: By network and precision.
    raw: dict[tuple[str, Precision], list[Raw]] = field(default_factory=dict)
    #: Requests a second as wrk sees them.
    wrk: dict[Cell, list[float]] = field(default_factory=dict)
    #: Why there is nothing, by case and server.
    absent: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pair:
    """A case on a server that answers it rightly."""

    target: Target
    case: Case
    wire: Wire
    server: Running


def measure(plan: Plan, root: Path, generator: Generator) -> Results:
    """
    Args:
        root: an empty folder for the bundles.
    """
    return _Measuring(plan, root, generator).all()


class _Measuring:
    def __init__(self, plan: Plan, root: Path, generator: Generator) -> None:
        self._plan = plan
        self._root = root
        self._generator = generator
        self._results = Results()
        rounds = plan.repeats * len(plan.loads) * (plan.warm_s + plan.seconds)
        self._progress = Progress(
            {
                (case.name, target.name): rounds
                for target in plan.targets
                for case in plan.cases
                if target.speaks(case)
            },
            sys.stderr,
        )

    def all(self) -> Results:
        bundles: dict[str, Path] = {}
        groups = self._plan.groups()
        for (name, precision), cases in groups.items():
            if name not in bundles:
                self._progress.say(f"publishing {name}")
                with_int8 = (name, "int8") in groups
                bundles[name] = publish_bundle(
                    self._root / f"only-{name}", NETWORKS[name], with_int8=with_int8
                )
            self._group(bundles[name], precision, cases)
        return self._results

    def _group(self, bundle: Path, precision: Precision, cases: Sequence[Case]) -> None:
        network = NETWORKS[cases[0].network]
        model = model_file(bundle, precision)
        expected = row_by_row(model, network.rows(VARIANTS))
        with ExitStack() as servers:
            pairs: list[_Pair] = []
            for target in self._plan.targets:
                started = self._started(servers, target, bundle, precision, cases)
                pairs += [pair for pair in started if self._answers(pair, expected)]
                for pair in started:
                    pause(pair.server.pid)
            for _ in range(self._plan.repeats):
                if self._plan.with_raw:
                    self._progress.say(f"bare ONNX Runtime with {network.name}")
                    seconds = _RAW_SHARE * self._plan.seconds
                    seen = raw.measure(model, lambda rows: {INPUT: network.rows(rows)}, seconds)
                    self._results.raw.setdefault((network.name, precision), []).append(seen)
                for case in cases:
                    for load in self._plan.loads:
                        for pair in pairs:
                            if pair.case is case:
                                self._cell(pair, load, expected)

    def _started(
        self,
        servers: ExitStack,
        target: Target,
        bundle: Path,
        precision: Precision,
        cases: Sequence[Case],
    ) -> list[_Pair]:
        wires = [(case, target.wire(case)) for case in cases if target.speaks(case)]
        pairs: list[_Pair] = []
        forms = {wire.form if target.is_single_form else "": None for _, wire in wires}
        for form in forms:
            asked = [(case, wire) for case, wire in wires if form in ("", wire.form)]
            self._progress.say(f"starting {target.name} with {bundle.parent.name} {precision}")
            try:
                server = servers.enter_context(target.start(bundle, precision, asked[0][1]))
                servers.callback(resume, server.pid)
                pairs += [_Pair(target, case, wire, server) for case, wire in asked]
            except NotStarted as error:
                for case, _ in asked:
                    self._miss(case, target, str(error))
        return pairs

    def _answers(self, pair: _Pair, expected: Array) -> bool:
        try:
            for turn, request in enumerate(pair.wire.requests):
                pair.wire.check(turn, ask(pair.server.port, request), expected)
        except (WrongAnswer, OSError) as error:
            self._miss(pair.case, pair.target, str(error))
            return False
        return True

    def _cell(self, pair: _Pair, load: Load, expected: Array) -> None:
        case, target = pair.case, pair.target
        if (case.name, target.name) in self._results.absent:
            return
        what = f"{case.steady_per_s:g}/s" if load.is_open else f"{load} at a time"
        self._progress.say(f"{case.name}, {what}: {target.name}")
        job = Job(
            pair.server.port,
            pair.server.pid,
            pair.wire.requests,
            load.connections,
            self._plan.seconds,
            self._plan.warm_s,
            case.steady_per_s if load.is_open else None,
        )
        cell = Cell(case.name, str(load), target.name)
        refusals: Counter[bytes] = Counter()
        resume(pair.server.pid)
        try:
            outcome = self._generator.run(job)
            for turn, answer in outcome.kept:
                if answer[9:12] == b"200":
                    pair.wire.check(turn, answer, expected)
                else:
                    refusals[answer.partition(b"\r\n\r\n")[2]] += 1
            if self._plan.wrk_cores is not None and not load.is_open:
                rate = wrk.per_s(job, self._plan.wrk_cores)
                self._results.wrk.setdefault(cell, []).append(rate)
        except (WrongAnswer, OSError) as error:
            self._miss(case, target, f"at {what}: {error}")
            return
        finally:
            pause(pair.server.pid)
        if refusals:
            common = refusals.most_common(1)[0][0].decode(errors="replace")
            self._progress.say(f"{target.name} refused: {common[:200]}")
        self._results.cells.setdefault(cell, []).append(outcome)
        self._progress.done((case.name, target.name), self._plan.warm_s + self._plan.seconds)

    def _miss(self, case: Case, target: Target, reason: str) -> None:
        self._results.absent[case.name, target.name] = reason
        self._progress.drop((case.name, target.name))
        self._progress.say(f"{case.name}: {target.name} is left out: {reason}")
