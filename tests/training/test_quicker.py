from dataclasses import replace

import pytest

from tests.training.test_select import BEST, NEAR, QUICK, TASK, candidate
from training.papers.quicker import why_not_quicker
from training.selection.latency import Latency
from training.selection.select import choose

pytestmark = pytest.mark.training


def said(others, faster_by: float, doubt: float) -> str:
    selection = choose((BEST, *others), TASK, faster_by=faster_by, doubt=lambda *_: doubt)
    return why_not_quicker(selection, TASK, faster_by, lambda *_: doubt)


def test_not_so_much_faster():
    assert said([NEAR], 6, 0.02) == (
        "Served faster, but not taken: near (5.0 times as fast; faster_by asks for 6)."
    )


def test_clearly_worse():
    assert said([NEAR], 3, 0.005) == (
        "Served faster, but not taken: near (5.0 times as fast; validation accuracy 0.9400 "
        "against 0.9500, more than the standard error of 0.0050)."
    )


def test_worse_by_the_second_metric():
    other = candidate("other", 0.95, QUICK, 0.2)
    assert "validation log loss 0.2000 against 0.1000" in said([other], 3, 0.02)


def test_switched_off():
    assert "speed does not count with faster_by=0" in said([NEAR], 0, 0.02)


def test_the_fastest_comes_first():
    other = candidate("other", 0.5, Latency(0.1, 1.0))
    told = said([NEAR, other], 6, 0.005)
    assert told.index("other (10.0 times") < told.index("near (5.0 times")


def test_nothing_where_a_quicker_one_was_taken_or_there_is_none():
    assert said([NEAR], 3, 0.02) == ""
    assert said([candidate("as fast", 0.9, Latency(0.9, 10.0))], 3, 0.02) == ""
    assert said([replace(NEAR, fault="not equal")], 3, 0.005) == ""
