"""Several worker processes behind one socket: starts them, replaces them, ends them.

Models, the runtime and the web framework are left to the workers: this process stays small.
"""

import logging
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.engine.cores import available_cores
from app.errors import NothingToServe, SettingsError
from app.listener import bind
from app.ops import scoreboard
from app.runtime_folder import runtime_folder, worker_options
from app.settings import Settings
from app.signal_queue import SignalQueue
from app.worker_process import WorkerProcess, ended_by

logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
#: Wait before a worker that did not get ready is started again; doubles each time.
_FIRST_DELAY_S: Final = 1.0
_LAST_DELAY_S: Final = 30.0
#: What workers may take beyond the drain delay and the grace period.
_LAST_WORDS_S: Final = 5.0
#: After a second Ctrl-C, and for a worker that is killed.
_IMPATIENCE_S: Final = 2.0
#: What a wake-up that is lost may cost.
_LONGEST_WAIT_S: Final = 10.0
#: Exit statuses of a worker that has told why it cannot start.
_TOLD: Final = (SettingsError.exit_status, NothingToServe.exit_status)
#: How a worker ends that is told to while it starts.
_STOPPED: Final = (-signal.SIGTERM, 128 + signal.SIGTERM)


def supervise(settings: Settings) -> int:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT; returns the exit status.

    Raises:
        SettingsError: the address cannot be listened on, or there is no place for shared files.
    """
    _warn_of_few_cores(settings)
    with bind(settings) as listener, SignalQueue(_SIGNALS) as signals, runtime_folder() as folder:
        options = worker_options(settings, folder)
        return Supervisor(settings, listener, folder, options, signals).run()


def _warn_of_few_cores(settings: Settings) -> None:
    cores = settings.threads or available_cores().count
    if settings.workers > cores:
        logger.warning(
            "more workers than cores", extra={"workers": settings.workers, "cores": cores}
        )


@dataclass
class _Place:
    """One of the N workers, whichever process it is."""

    worker: WorkerProcess | None = None
    #: When a process is to be started here; None for not yet, or not again.
    due_s: float | None = None
    delay_s: float = 0.0


class Supervisor:
    """Owns the worker processes.

    The first worker proves the models alone; the others are started once it is ready, and find its
    verdicts in the cache. While no worker lives, connections wait in the listening socket.
    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        folder: Path,
        options: Sequence[str],
        signals: SignalQueue,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._folder = folder
        self._options = options
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        self._places = [_Place() for _ in range(settings.workers)]
        self._numbers = 0
        self._has_served = False
        self._ends_s: float | None = None
        self._status = 0

    def run(self) -> int:
        """Until every worker has ended; returns the exit status of this process."""
        self._selector.register(self._signals, selectors.EVENT_READ)
        self._places[0].due_s = time.monotonic()
        try:
            while self._workers() or self._due_s():
                self._selector.select(self._patience_s())
                self._listen()
                for number in self._signals.take():
                    self._handle(number)
                self._reap()
                self._start_those_due()
                self._end_those_overdue()
        finally:
            # Where this was left early, the workers learn from their channels that it has ended.
            for worker in self._workers():
                worker.close()
            self._selector.close()
        logger.info("stopped")
        return self._status

    def _workers(self) -> list[WorkerProcess]:
        return [place.worker for place in self._places if place.worker is not None]

    def _due_s(self) -> list[float]:
        return [place.due_s for place in self._places if place.due_s is not None]

    def _patience_s(self) -> float:
        moments_s = self._due_s() + ([self._ends_s] if self._ends_s is not None else [])
        left_s = min(moments_s, default=float("inf")) - time.monotonic()
        return min(max(0.0, left_s), _LONGEST_WAIT_S)

    # ------------------------------------------------------------ what is told

    def _listen(self) -> None:
        """Take in what the workers said."""
        for place in self._places:
            worker = place.worker
            if worker is None or worker.has_hung_up:
                continue
            was_ready = worker.is_ready
            if worker.listen():
                self._rescan(but=worker)
            if worker.is_ready and not was_ready:
                self._note_ready(place, worker)
            if worker.has_hung_up:
                self._selector.unregister(worker.channel)

    def _note_ready(self, place: _Place, worker: WorkerProcess) -> None:
        place.delay_s = 0.0
        logger.info(
            "worker ready",
            extra={"worker": worker.place, "pid": worker.pid, "start_s": round(worker.age_s, 3)},
        )
        if not self._has_served and self._ends_s is None:
            for other in self._places[1:]:
                other.due_s = time.monotonic()
        self._has_served = True

    def _rescan(self, but: WorkerProcess | None = None) -> None:
        for worker in self._workers():
            if worker is not but:
                worker.rescan()

    def _handle(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._hang_up()
        elif number in _STOPS and self._ends_s is None:
            self._stop(number)
        elif number == signal.SIGINT:
            self._stop_waiting()

    def _hang_up(self) -> None:
        if self._ends_s is not None:
            logger.info("SIGHUP changes nothing: stopping")
            return
        workers = self._workers()
        logger.info(
            "SIGHUP: every worker looks at the model repository", extra={"workers": len(workers)}
        )
        self._rescan()

    # ------------------------------------------------------------ start and replace

    def _start_those_due(self) -> None:
        for index, place in enumerate(self._places):
            if place.due_s is not None and place.due_s <= time.monotonic():
                place.due_s = None
                self._start(index, place)

    def _start(self, index: int, place: _Place) -> None:
        self._numbers += 1
        try:
            worker = WorkerProcess(index, self._numbers, self._listener, self._options)
        except OSError as error:  # no memory or no more processes for now
            logger.error("cannot start a worker", extra={"worker": index, "error": error.strerror})
            if self._has_served:
                self._start_later(place)
            else:  # nobody waits for a service that never came up
                self._status = 1
            return
        place.worker = worker
        self._selector.register(worker.channel, selectors.EVENT_READ)
        logger.info("worker started", extra={"worker": index, "pid": worker.pid})

    def _start_later(self, place: _Place) -> None:
        """The longer, the more often it has failed to get ready."""
        place.delay_s = min(max(_FIRST_DELAY_S, 2 * place.delay_s), _LAST_DELAY_S)
        place.due_s = time.monotonic() + place.delay_s

    def _reap(self) -> None:
        for place in self._places:
            worker = place.worker
            status = worker.exit_status() if worker is not None else None
            if worker is None or status is None:
                continue
            if not worker.has_hung_up:
                self._selector.unregister(worker.channel)
            worker.close()
            place.worker = None
            if self._ends_s is not None:
                self._note_end(worker, status)
            elif not self._has_served:
                self._give_up(worker, status)
            else:
                self._replace(place, worker, status)

    def _replace(self, place: _Place, worker: WorkerProcess, status: int) -> None:
        place.due_s = time.monotonic()
        if not worker.is_ready:
            self._start_later(place)
        logger.warning(
            "worker ended; it is started again",
            extra={
                "worker": worker.place,
                "pid": worker.pid,
                "ended_by": ended_by(status),
                "lived_s": round(worker.age_s, 3),
                "delay_s": place.delay_s,
            },
        )
        try:
            scoreboard.fold(self._folder, worker.number, restarted=True)
        except OSError as error:
            logger.warning("cannot write the figures", extra={"error": error.strerror})

    def _give_up(self, worker: WorkerProcess, status: int) -> None:
        """The first worker did not get ready; in most cases it has said why."""
        if status in _TOLD:
            self._status = status
            return
        logger.error(
            "the first worker ended before it was ready",
            extra={"pid": worker.pid, "ended_by": ended_by(status)},
        )
        self._status = 128 - status if status < 0 else max(1, status)

    # ------------------------------------------------------------ the end

    def _stop(self, number: int) -> None:
        logger.info("stopping", extra={"signal": signal.Signals(number).name})
        self._listener.close()
        for place in self._places:
            place.due_s = None
        if self._has_served:
            delay_s = self._settings.drain_delay_s if number == signal.SIGTERM else 0.0
            patience_s = delay_s + self._settings.grace_s + _LAST_WORDS_S
        else:
            self._status = 128 + number
            patience_s = _IMPATIENCE_S
        self._ends_s = time.monotonic() + patience_s
        for worker in self._workers():
            # One that has yet to start would take a SIGINT for a mistake.
            worker.signal(number if worker.is_ready else signal.SIGTERM)

    def _stop_waiting(self) -> None:
        self._ends_s = min(self._ends_s or 0.0, time.monotonic() + _IMPATIENCE_S)
        for worker in self._workers():
            worker.signal(signal.SIGINT)

    def _note_end(self, worker: WorkerProcess, status: int) -> None:
        ended_well = status == 0 or (not worker.is_ready and status in _STOPPED)
        if not ended_well:
            self._status = self._status or 1
            extra = {"worker": worker.place, "pid": worker.pid, "ended_by": ended_by(status)}
            logger.warning("worker ended badly", extra=extra)

    def _end_those_overdue(self) -> None:
        if self._ends_s is not None and time.monotonic() >= self._ends_s:
            for worker in self._workers():
                logger.warning(
                    "worker is killed: it did not end in time",
                    extra={"worker": worker.place, "pid": worker.pid},
                )
                worker.signal(signal.SIGKILL)
            self._ends_s = time.monotonic() + _IMPATIENCE_S
