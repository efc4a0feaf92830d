"""What a run tells the person who waits for it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

#: Without a terminal, about this many epochs of a candidate are written.
LINES_PER_CANDIDATE = 6
#: Without a terminal, a line within an epoch is written this often at the most.
LINE_EVERY_S = 30.0
#: A bar moves this often at the most.
BAR_EVERY_S = 0.2


class Progress:
    """Says nothing; the ones below say it somewhere."""

    def stage(self, title: str) -> None:
        """A stage of the road begins."""

    def note(self, text: str) -> None:
        """Something worth knowing happened in this stage."""

    @contextmanager
    def training(self, candidate: str, epochs: int, metric: str) -> Iterator[None]:  # noqa: ARG002
        """A candidate is trained inside; `metric` is what `epoch` tells of."""
        yield

    def batch(self, epoch: int, share: float, rows_per_s: float) -> None:
        """A step of an epoch (from 1) was made; `share` of the epoch is done, 0–1."""

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, metric: float) -> None:
        """An epoch (from 1) ended; the metric is of the validation split."""


class Pace:
    """How fast a candidate is trained, and how long that can still take."""

    def __init__(self, epochs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.epochs = epochs
        self.rows_per_s = 0.0
        self._clock = clock
        self._begun: tuple[float, float] | None = None
        self._done = 0.0

    def reach(self, done: float, rows_per_s: float | None = None) -> None:
        """So many epochs are done. The first call counts from where an interruption left off."""
        self._done = done
        self.rows_per_s = self.rows_per_s if rows_per_s is None else rows_per_s
        if self._begun is None:
            self._begun = (self._clock(), done)

    @property
    def left_s(self) -> float | None:
        """Seconds, if all epochs are needed; None while nothing tells."""
        if self._begun is None or self._done <= self._begun[1]:
            return None
        started_s, before = self._begun
        return (self._clock() - started_s) / (self._done - before) * (self.epochs - self._done)

    def __str__(self) -> str:
        left_s = self.left_s
        left = "" if left_s is None else f", at most {timedelta(seconds=round(left_s))} left"
        return f"{self.rows_per_s:,.0f} rows/s{left}"


class LineProgress(Progress):
    """Plain lines, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._candidate = self._metric = ""
        self._epochs_per_line = 1
        self._stages = 0
        self._pace = Pace(1)
        self._said_s = 0.0

    def stage(self, title: str) -> None:
        self._stages += 1
        self.console.print(f"[bold]{self._stages}. {title}[/bold]", highlight=False)

    def note(self, text: str) -> None:
        self.console.print(f"   {text}", highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def training(self, candidate: str, epochs: int, metric: str) -> Iterator[None]:
        self._candidate, self._metric = candidate, metric
        self._epochs_per_line = max(1, epochs // LINES_PER_CANDIDATE)
        self._pace, self._said_s = Pace(epochs), time.monotonic()
        yield

    def batch(self, epoch: int, share: float, rows_per_s: float) -> None:
        self._pace.reach(epoch - 1 + share, rows_per_s)
        if time.monotonic() - self._said_s > LINE_EVERY_S:
            self._say(f"epoch {epoch}, {share:.0%}")

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, metric: float) -> None:
        self._pace.reach(epoch)
        if epoch == 1 or epoch % self._epochs_per_line == 0:
            self._say(f"epoch {epoch}, " + self._losses(train_loss, validation_loss, metric))

    def _say(self, what: str) -> None:
        self._said_s = time.monotonic()
        self.note(f"{self._candidate}: {what}, {self._pace}")

    def _losses(self, train_loss: float, validation_loss: float, metric: float) -> str:
        losses = f"loss {train_loss:.3f}, validation {validation_loss:.3f}"
        return f"{losses}, {self._metric} {metric:.4g}"


class BarProgress(LineProgress):
    """One bar for each candidate, for a terminal."""

    _bars: Bars

    @contextmanager
    def training(self, candidate: str, epochs: int, metric: str) -> Iterator[None]:
        self._metric = metric
        self._pace, self._said_s = Pace(epochs), 0.0
        self._bars = Bars(
            TextColumn("   {task.description:<8}"),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[epoch]:>3}/{task.total}"),
            TextColumn("{task.fields[pace]}"),
            TextColumn("{task.fields[losses]}"),
            console=self.console,
            transient=True,
        )
        with self._bars:
            self._task = self._bars.add_task(candidate, total=epochs, epoch=0, pace="", losses="")
            yield

    def batch(self, epoch: int, share: float, rows_per_s: float) -> None:
        self._pace.reach(epoch - 1 + share, rows_per_s)
        if time.monotonic() - self._said_s > BAR_EVERY_S:
            self._said_s = time.monotonic()
            done, pace = epoch - 1 + share, str(self._pace)
            self._bars.update(self._task, completed=done, epoch=epoch, pace=pace)

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, metric: float) -> None:
        self._pace.reach(epoch)
        losses = self._losses(train_loss, validation_loss, metric)
        self._bars.update(self._task, completed=epoch, epoch=epoch, losses=losses)


def progress_on(console: Console) -> Progress:
    return BarProgress(console) if console.is_terminal else LineProgress(console)
