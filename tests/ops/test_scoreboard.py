"""Figures of all workers in one folder: nothing is counted twice, nothing is lost."""

import logging
import threading
from pathlib import Path

import pytest

from app.ops import families
from app.ops.metrics import Metrics
from app.ops.scoreboard import Scoreboard, fold
from app.ops.snapshot import Snapshot
from tests.ops.test_snapshot import process

WAIT_S = 30.0


def received(snapshot: Snapshot) -> float:
    return sum(values[0] for values in snapshot.of(families.RECEIVED).values())


def post(folder: Path, number: int, answered: int) -> None:
    Scoreboard(folder, number).post(process(answered=answered).snapshot())


class TestMerged:
    def test_every_worker_counts_once(self, tmp_path: Path) -> None:
        for number in (2, 3):
            post(tmp_path, number, answered=10)

        merged = Scoreboard(tmp_path, 1).merged(process(answered=1).snapshot())

        assert received(merged) == 21

    def test_own_figures_are_as_of_now(self, tmp_path: Path) -> None:
        own = process(answered=1)
        scoreboard = Scoreboard(tmp_path, 1)
        scoreboard.post(own.snapshot())
        own.received["predict"] += 1

        assert received(scoreboard.merged(own.snapshot())) == 2
        # What was shown once is seen by the others from then on.
        assert received(Scoreboard(tmp_path, 2).merged(Metrics().snapshot())) == 2

    def test_an_older_snapshot_does_not_replace_a_newer_one(self, tmp_path: Path) -> None:
        own = process(answered=1)
        older = own.snapshot()
        own.received["predict"] += 5
        scoreboard = Scoreboard(tmp_path, 1)
        scoreboard.post(own.snapshot())

        scoreboard.post(older)

        assert received(Scoreboard(tmp_path, 2).merged(Metrics().snapshot())) == 6

    def test_a_broken_file_is_skipped_and_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        post(tmp_path, 2, answered=10)
        (tmp_path / "worker-3.json").write_bytes(b'{"format": 1, "ser')

        with caplog.at_level(logging.WARNING):
            merged = Scoreboard(tmp_path, 1).merged(process(answered=1).snapshot())

        assert received(merged) == 11
        assert [record.message for record in caplog.records] == ["skipped a file of figures"]

    def test_a_folder_that_is_gone_leaves_own_figures(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        scoreboard = Scoreboard(tmp_path / "gone", 1)
        own = process(answered=1)

        with caplog.at_level(logging.WARNING):
            merged = [scoreboard.merged(own.snapshot()) for _ in range(3)]

        assert [received(one) for one in merged] == [1, 1, 1]
        # Said once, not every second.
        assert [record.message for record in caplog.records] == ["cannot write the figures"]

    def test_a_closed_one_writes_no_more(self, tmp_path: Path) -> None:
        scoreboard = Scoreboard(tmp_path, 1)
        scoreboard.close()

        scoreboard.post(process(answered=1).snapshot())

        assert list(tmp_path.iterdir()) == []


class TestFold:
    def test_a_worker_that_has_ended_still_counts(self, tmp_path: Path) -> None:
        reader = Scoreboard(tmp_path, 1)
        for number in range(2, 6):
            post(tmp_path, number, answered=number)
            fold(tmp_path, number, restarted=True)

        merged = reader.merged(Metrics().snapshot())

        assert received(merged) == 2 + 3 + 4 + 5
        assert merged.of(families.RESTARTS)[()] == (4,)
        assert merged.of(families.WORKERS_ALIVE)[()] == (1,)
        assert merged.of(families.MODEL_INFO) == {}

    def test_one_that_wrote_nothing_is_a_restart_all_the_same(self, tmp_path: Path) -> None:
        fold(tmp_path, 7, restarted=True)
        fold(tmp_path, 8, restarted=False)

        merged = Scoreboard(tmp_path, 1).merged(Metrics().snapshot())

        assert merged.of(families.RESTARTS)[()] == (1,)

    def test_a_fold_that_was_cut_short_counts_once(self, tmp_path: Path) -> None:
        """As a reader sees it that comes between the two steps."""
        post(tmp_path, 2, answered=10)
        kept = (tmp_path / "worker-2.json").read_bytes()
        fold(tmp_path, 2, restarted=True)
        (tmp_path / "worker-2.json").write_bytes(kept)

        assert received(Scoreboard(tmp_path, 1).merged(Metrics().snapshot())) == 10

    def test_what_a_killed_worker_left_half_written_goes(self, tmp_path: Path) -> None:
        post(tmp_path, 2, answered=10)
        (tmp_path / "worker-2.tmp").write_bytes(b"{")

        fold(tmp_path, 2, restarted=True)

        assert [path.name for path in tmp_path.iterdir()] == ["retired.json"]

    def test_readers_see_the_same_total_while_workers_are_folded(self, tmp_path: Path) -> None:
        count = 60
        for number in range(1, count + 1):
            post(tmp_path, number, answered=1)
        done = threading.Event()

        def fold_all() -> None:
            for number in range(1, count + 1):
                fold(tmp_path, number, restarted=True)
            done.set()

        folding = threading.Thread(target=fold_all)
        folding.start()
        reader = Scoreboard(tmp_path, count + 1)
        totals = []
        while not done.is_set() or not totals:
            totals.append(received(reader.merged(Metrics().snapshot())))
        folding.join(WAIT_S)

        assert set(totals) == {count}
