"""A served version: manifest, plan, session and batcher. Usable without HTTP."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from app.bundle.golden import Golden
from app.bundle.manifest import Batching, Manifest
from app.bundle.signature import TensorSpec
from app.bundle.store import Bundle
from app.bundle.tensors import Array, Tensors, take_rows
from app.engine.proof.prover import Proved
from app.engine.scheduling.admission import QUEUE_BYTES, BatcherLimits
from app.engine.scheduling.batcher import Batcher, Observer, Part
from app.engine.scheduling.waiting import Done, Entry
from app.engine.scheduling.workers import Workers
from app.engine.session import Session
from app.errors import ModelportError, PayloadTooLarge, SessionFailed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelLimits:
    """What one model may take: rows and bytes that wait, and rows of one request."""

    queue_rows: int
    max_request_rows: int
    queue_bytes: int = QUEUE_BYTES


class Pending(Protocol):
    """A submitted request; `cancel` it when the caller leaves."""

    def cancel(self) -> None: ...


class Model:
    """One version, open and proved. Made by `app.engine.opener`, closed by its owner."""

    def __init__(
        self,
        bundle: Bundle,
        proved: Proved,
        workers: Workers,
        limits: ModelLimits,
        observer: Observer | None = None,
    ) -> None:
        self.manifest: Manifest = bundle.manifest
        self.digest = bundle.digest
        #: What an answer says of the model that gave it.
        self.ref: Mapping[str, str | int] = {
            "name": self.name,
            "version": self.version,
            "digest": self.digest,
        }
        #: What its users keep beside it, and what goes with it; nothing there may hold the model.
        self.attached: dict[Any, Any] = {}
        self.plan = plan = proved.plan
        #: Says in each answer what ran it.
        self.provider_header = (b"modelport-provider", _printable(plan.provider))
        self._session = session = proved.session
        self._loop = workers.loop
        self._most_rows = most_rows(self.manifest.batching, plan.max_rows, limits)
        golden = bundle.golden()
        #: A row with a known answer, for examples.
        self.golden_row = plain_row(golden)
        #: Whether the model is sound is asked at a batch size that was proved: it may run at no
        #: other.
        sound = golden.tiled(plan.checked_rows[0]).inputs
        self._batcher = Batcher(
            session.run,
            BatcherLimits(
                max_rows=plan.max_rows,
                queue_rows=limits.queue_rows,
                join_requests=self.manifest.batching.row_independent,
                queue_bytes=limits.queue_bytes,
                width=plan.intra_op_threads,
                instances=plan.instances,
                inline_rows=plan.inline_rows,
                all_alike=_all_alike(self.manifest.signature.inputs),
            ),
            workers,
            probe=lambda: _run_discarding(session, sound),
            observer=observer,
            measured_s=plan.run_s,
        )

    @property
    def free(self) -> Callable[[], None]:
        """Frees the session, which may take long; holds on to that, but not to the model."""
        return self._session.close

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def queued_rows(self) -> int:
        return self._batcher.queued_rows

    def check_admission(self, deadline_s: float | None) -> None:
        """Refuse now what would be refused once its body is read, were it of one row.

        Args:
            deadline_s: on the event loop's clock.
        Raises:
            Overloaded, DeadlineExceeded, Draining
        """
        self._batcher.check(1, 0, deadline_s)

    @property
    def rows_at_once(self) -> int:
        """Most rows of several requests in a run that is short enough for the event loop; 0 where
        there is none, or not now."""
        return self._batcher.rows_at_once

    def run_at_once(
        self, inputs: Tensors, rows: int, arrived_s: Sequence[float]
    ) -> Mapping[str, Array] | None:
        """Run several requests as one, here and now.

        Args:
            inputs: all their rows.
            arrived_s: when each of them came, by `time.perf_counter`.
        Returns:
            their outputs; None where they should be submitted, since the run failed or has to wait.
        """
        return self._batcher.run_at_once(inputs, rows, arrived_s)

    def hurry(self) -> None:
        """Nothing more comes in this turn of the event loop: what can run in it may run now."""
        self._batcher.hurry()

    def submit(self, inputs: Tensors, rows: int, deadline_s: float | None, done: Done) -> Pending:
        """Queue a request; one with more rows than a run takes is cut into several runs.

        Args:
            inputs: named arrays that fit the signature, axis 0 `rows` long.
            deadline_s: on the event loop's clock.
            done: called once on the event loop with the outputs or an error.
        Raises:
            PayloadTooLarge, Overloaded, DeadlineExceeded, Draining
        """
        if rows > self._most_rows:
            raise PayloadTooLarge(f"{rows} rows in one request, at most {self._most_rows}")
        limit = self.plan.max_rows
        if rows <= limit:
            return self._batcher.submit(inputs, rows, deadline_s, done)
        joint = _Parts(-(-rows // limit), done)
        parts = [
            Part(
                take_rows(inputs, slice(start, start + limit)),
                min(limit, rows - start),
                joint.receiver(index),
            )
            for index, start in enumerate(range(0, rows, limit))
        ]
        joint.entries = self._batcher.submit_parts(parts, deadline_s)
        return joint

    async def predict(
        self, inputs: Tensors, rows: int, timeout_s: float | None = None
    ) -> Mapping[str, Array]:
        """Outputs of a request, as named arrays with axis 0 `rows` long.

        Raises:
            ModelportError: as `submit`, DeadlineExceeded, or the model's own failure.
        """
        future: asyncio.Future[Mapping[str, Array]] = self._loop.create_future()

        def done(outcome: Mapping[str, Array] | ModelportError) -> None:
            if future.done():
                return
            if isinstance(outcome, ModelportError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        deadline_s = None if timeout_s is None else self._loop.time() + timeout_s
        pending = self.submit(inputs, rows, deadline_s, done)
        try:
            return await future
        finally:
            pending.cancel()  # does nothing to what has ended

    async def close(self, timeout_s: float) -> None:
        """Finish what waits, refuse what comes, then free the session after its last run."""
        await self._batcher.close(timeout_s)
        if self._batcher.running_batches:
            logger.warning("a run outlasted the grace period; its session is left to the process")
            return
        self._session.close()


class _Parts:
    """Joins the outputs of a request that was cut into several runs."""

    def __init__(self, count: int, done: Done) -> None:
        self.entries: list[Entry] = []
        self._results: list[Mapping[str, Array] | None] = [None] * count
        self._left = count
        self._done = done

    def cancel(self) -> None:
        for entry in self.entries:
            entry.cancel()

    def receiver(self, index: int) -> Done:
        def receive(outcome: Mapping[str, Array] | ModelportError) -> None:
            if isinstance(outcome, ModelportError):
                for entry in self.entries:
                    entry.cancel()
                self.entries.clear()
                self._done(outcome)
                return
            self._results[index] = outcome
            self._left -= 1
            if self._left == 0:
                self.entries.clear()
                self._done(_joined([part for part in self._results if part is not None]))

        return receive


def _joined(parts: Sequence[Mapping[str, Array]]) -> Mapping[str, Array] | ModelportError:
    try:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    except ValueError:
        return SessionFailed("the model gave parts of this request outputs of different shapes")


def most_rows(batching: Batching, max_rows: int, limits: ModelLimits) -> int:
    """Most rows of one request; it is cut into several runs only where rows are independent."""
    if batching.row_independent:
        return limits.max_request_rows
    return min(max_rows, limits.max_request_rows)


def _all_alike(inputs: Sequence[TensorSpec]) -> bool:
    """Whether requests that fit the signature differ in nothing but their rows."""
    return all(isinstance(dim, int) for spec in inputs for dim in spec.shape[1:])


def _printable(text: str) -> bytes:
    """As a header's value: printable ASCII."""
    return "".join(c if " " <= c <= "~" else "?" for c in text).encode()


def _run_discarding(session: Session, inputs: Tensors) -> None:
    session.run(inputs)


def plain_row(golden: Golden) -> Golden:
    """One golden row with finite numbers only, since JSON can show no other. Where there is none,
    a row with zeros in their place: an example, whose outputs are not golden."""
    for row in range(golden.rows):
        inputs = take_rows(golden.inputs, slice(row, row + 1))
        if all(a.dtype.kind != "f" or np.isfinite(a).all() for a in inputs.values()):
            return Golden(inputs, take_rows(golden.outputs, slice(row, row + 1)))
    first = golden.tiled(1)
    shown = {
        name: np.where(np.isfinite(a), a, 0).astype(a.dtype) if a.dtype.kind == "f" else a
        for name, a in first.inputs.items()
    }
    return Golden(shown, first.outputs)
