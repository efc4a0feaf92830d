"""Many requests of every kind at once, on real sessions that share one run budget.

Each request knows its own answer. Nothing may be wrong, crossed, answered twice or left hanging.
"""

import asyncio
import math
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from app.bundle.tensors import Array, Tensors, row_count
from app.engine.model import Model, ModelLimits, Pending
from app.engine.proof.plan import Cost
from app.engine.proof.prover import Proved
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.providers.ranking import rank
from app.engine.scheduling.workers import Workers
from app.errors import DeadlineExceeded, EngineError, ModelportError, Overloaded
from tests.engine.conftest import HANG_S, until
from tests.support import models
from tests.support.bundles import MAX_ROWS, make_bundle
from tests.support.opening import prove

SLOTS: Final = 2
MAX_REQUEST_ROWS: Final = 64
LIMITS: Final = ModelLimits(queue_rows=512, max_request_rows=MAX_REQUEST_ROWS)
BAD_INDEX: Final = 99
COMPUTE: Final[Mapping[str, Callable[[Tensors], Tensors]]] = {
    "affine": models.affine,
    "inline": models.affine,
    "mixer": models.mixer,
    "poison": models.poison,
    "strings": models.strings,
}
#: How a plan is changed for the sake of variety.
PLANS: Final[Mapping[str, Mapping[str, Any]]] = {
    "affine": {"instances": 2},
    "inline": {"inline_rows": 4},
    "mixer": {"intra_op_threads": 2},
    "poison": {"instances": 2},
    "strings": {"costs": (Cost(rows=1, intra_op_threads=1, instances=1, run_ms=0.05),)},
}


class Counting:
    """Hands runs on to a session, and counts them."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._lock = threading.Lock()
        self.runs = 0
        self.most_rows = 0

    def run(self, inputs: Tensors) -> Mapping[str, Array]:
        with self._lock:
            self.runs += 1
            self.most_rows = max(self.most_rows, row_count(inputs))
        outputs: Mapping[str, Array] = self._session.run(inputs)
        return outputs

    def close(self) -> None:
        self._session.close()


class Figures:
    """What a model's observer is told, added up."""

    def __init__(self) -> None:
        self.rows = 0
        self.requests = 0

    def batch(self, rows: int, waits_s: Sequence[float], run_s: float) -> None:
        assert min(waits_s) >= 0
        assert run_s >= 0
        self.rows += rows
        self.requests += len(waits_s)


@dataclass
class Served:
    name: str
    model: Model
    session: Counting
    figures: Figures


@asynccontextmanager
async def serving(root: Path) -> AsyncIterator[list[Served]]:
    workers = Workers(SLOTS, asyncio.get_running_loop())
    served = [_open(root, name, workers) for name in COMPUTE]
    try:
        yield served
    finally:
        for one in served:
            await one.model.close(HANG_S)
        workers.close()


def _open(root: Path, name: str, workers: Workers) -> Served:
    bundle = make_bundle(root, name, "affine" if name == "inline" else name)
    proved = prove(bundle, rank([Candidate(CPU_PROVIDER, "cpu")]))
    session, figures = Counting(proved.session), Figures()
    plan = proved.plan.model_copy(update=PLANS[name])
    model = Model(bundle, Proved(session, plan), workers, LIMITS, figures)  # type: ignore[arg-type]
    return Served(name, model, session, figures)


def make_inputs(name: str, rows: int, chance: random.Random, *, poisoned: bool) -> Tensors:
    if name == "poison":
        index = np.array([chance.randint(-4, 3) for _ in range(rows)], dtype=np.int64)
        if poisoned:
            index[chance.randrange(rows)] = BAD_INDEX
        return {"index": index}
    if name == "strings":
        colours = [chance.choice([*models.COLOURS, "mauve", "", "ü" * 40]) for _ in range(rows)]
        return {"colour": np.array(colours, dtype=object)}
    x = [[chance.uniform(-9, 9) for _ in range(3)] for _ in range(rows)]
    return {"x": np.array(x, dtype=np.float32)}


def differs(got: Mapping[str, Array], want: Tensors) -> bool:
    if got.keys() != want.keys():
        return True
    for name, array in want.items():
        if got[name].shape != array.shape:
            return True
        if array.dtype.kind == "f":
            if not np.allclose(got[name], array, atol=1e-4):
                return True
        elif got[name].tolist() != array.tolist():
            return True
    return False


@dataclass
class Crowd:
    """Callers that send, leave, and check."""

    served: Sequence[Served]
    seed: int
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Good requests that failed with several poison ones: a batch has too few runs to find all.
    collateral: int = 0
    wrong: int = 0
    twice: int = 0
    #: Poison requests that wait or run; while there is but one, nobody else may fail.
    poisons_about: int = 0
    most_poisons_about: int = 0

    async def send(self, requests: int, caller: int, most_poisons: int) -> None:
        chance = random.Random(f"{self.seed}-{caller}")
        for _ in range(requests):
            served = chance.choice(self.served)
            outcome = await self._send_one(served, chance, most_poisons)
            self.outcomes[served.name, outcome] += 1

    async def _send_one(self, served: Served, chance: random.Random, most_poisons: int) -> str:
        most = MAX_ROWS if served.name == "mixer" else MAX_REQUEST_ROWS
        rows = chance.randint(1, 4) if chance.random() < 0.9 else chance.randint(1, most)
        poisoned = (
            served.name == "poison" and chance.random() < 0.2 and self.poisons_about < most_poisons
        )
        inputs = make_inputs(served.name, rows, chance, poisoned=poisoned)
        deadline_s = chance.choice([None, None, None, HANG_S, 0.0005, 0.002, 0.01])
        self.poisons_about += poisoned
        self.most_poisons_about = max(self.most_poisons_about, self.poisons_about)
        try:
            return await self._exchange(served, inputs, deadline_s, chance, poisoned=poisoned)
        finally:
            self.poisons_about -= poisoned

    async def _exchange(
        self,
        served: Served,
        inputs: Tensors,
        limit_s: float | None,
        chance: random.Random,
        *,
        poisoned: bool,
    ) -> str:
        loop = asyncio.get_running_loop()
        answers: list[Mapping[str, Array] | ModelportError] = []
        answered = loop.create_future()

        def done(outcome: Mapping[str, Array] | ModelportError) -> None:
            answers.append(outcome)
            if isinstance(outcome, EngineError) and not poisoned:
                # Those of the same batch are answered in the same moment, so they still count.
                self.collateral += 1
                self.wrong += self.poisons_about < 2 or served.name != "poison"
            if not answered.done():
                answered.set_result(None)

        deadline_s = None if limit_s is None else loop.time() + limit_s
        try:
            pending = served.model.submit(inputs, row_count(inputs), deadline_s, done)
        except (Overloaded, DeadlineExceeded):
            return "refused"
        if chance.random() < 0.05 and await self._leave(pending, answers, chance):
            # A poison that left may still run: no other comes before that has ended.
            if poisoned:
                await until(lambda: served.model._batcher.running_batches == 0)
            return "cancelled"
        await answered
        outcome = self._judge(served, inputs, answers[0], poisoned=poisoned, limit_s=limit_s)
        if poisoned and outcome == "expired":
            await until(lambda: served.model._batcher.running_batches == 0)
        if chance.random() < 0.1:
            await asyncio.sleep(0)
        self.twice += len(answers) != 1
        return outcome

    async def _leave(self, pending: Pending, answers: list[Any], chance: random.Random) -> bool:
        """Cancel at a random moment; whether that was before the answer."""
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
        if answers:
            return False
        pending.cancel()
        await asyncio.sleep(0.001)
        self.twice += len(answers)
        return True

    def _judge(
        self,
        served: Served,
        inputs: Tensors,
        answer: Mapping[str, Array] | ModelportError,
        *,
        poisoned: bool,
        limit_s: float | None,
    ) -> str:
        if isinstance(answer, DeadlineExceeded):
            self.wrong += limit_s is None
            return "expired"
        if isinstance(answer, EngineError):
            return "failed"
        if isinstance(answer, ModelportError) or poisoned:
            self.wrong += 1
            return "wrong"
        self.wrong += differs(answer, COMPUTE[served.name](inputs))
        return "right"


async def rush(root: Path, requests: int, seed: int, most_poisons: int) -> None:
    callers = 100
    async with serving(root) as served, asyncio.timeout(3 * HANG_S):
        crowd = Crowd(served, seed)
        each = requests // callers
        await asyncio.gather(*(crowd.send(each, n, most_poisons) for n in range(callers)))
        await until(lambda: not any(one.model._batcher.running_batches for one in served))

        assert (crowd.wrong, crowd.twice) == (0, 0)
        assert crowd.outcomes.total() == requests
        if most_poisons == 1:
            assert crowd.collateral == 0
        else:
            assert crowd.most_poisons_about > 1
        for one in served:
            assert one.model.queued_rows == 0
            assert crowd.outcomes[one.name, "right"] > requests / 20
            _check_figures(one, crowd.outcomes)
        assert crowd.outcomes["poison", "failed"] > requests / 500
        kinds = Counter[str]()
        for (_, kind), count in crowd.outcomes.items():
            kinds[kind] += count
        assert kinds.keys() <= {"right", "failed", "expired", "cancelled", "refused"}
        assert min(kinds["expired"], kinds["cancelled"]) > requests / 100
        assert {one.session.most_rows for one in served} == {MAX_ROWS}


def _check_figures(one: Served, outcomes: Counter[tuple[str, str]]) -> None:
    """What was delivered ran, and what ran was asked for."""
    delivered = outcomes[one.name, "right"] + outcomes[one.name, "failed"]
    asked = sum(count for (name, _), count in outcomes.items() if name == one.name)
    parts = math.ceil(MAX_REQUEST_ROWS / MAX_ROWS)
    assert delivered <= one.figures.requests <= asked * parts
    assert one.figures.rows >= one.figures.requests
    assert one.session.runs > 0


@pytest.mark.parametrize("most_poisons", [1, 4])
def test_a_few_thousand_mixed_requests_end_each_in_its_own_way(
    tmp_path: Path, most_poisons: int
) -> None:
    asyncio.run(rush(tmp_path, 2_500, seed=1, most_poisons=most_poisons))


@pytest.mark.slow
@pytest.mark.parametrize("most_poisons", [1, 4])
def test_twice_fifty_thousand_mixed_requests_end_each_in_its_own_way(
    tmp_path: Path, most_poisons: int
) -> None:
    asyncio.run(rush(tmp_path, 50_000, seed=2, most_poisons=most_poisons))
