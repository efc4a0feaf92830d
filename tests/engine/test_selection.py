"""Which version serves: one table, without a repository."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from app.bundle.store import ModelFolder
from app.engine.versions.selection import Choice, Policy, Standing, choose


def folder(*versions: int, pin: int | None = None, pin_problem: str = "") -> ModelFolder:
    return ModelFolder("m", Path("m"), versions, pin, pin_problem)


def now(
    *loaded: int,
    served: int | None = None,
    previous: int | None = None,
    refused: tuple[int, ...] = (),
    outdated: tuple[int, ...] = (),
) -> Standing:
    return Standing(frozenset(loaded), refused, frozenset(outdated), served, previous)


ONE = Policy()
TWO = Policy(loaded_versions=2)
NO_PREVIOUS = Policy(keep_previous=False)


@dataclass(frozen=True)
class Case:
    folder: ModelFolder
    now: Standing
    serve: int | None
    open: int | None = None
    keep: tuple[int, ...] = ()
    problem: str = ""
    policy: Policy = ONE


CASES = {
    # At the start.
    "the newest is opened first": Case(folder(3, 2, 1), now(), None, open=3),
    "after a bad one comes the next": Case(folder(3, 2, 1), now(refused=(3,)), None, open=2),
    "the newest serves once it is loaded": Case(folder(3, 2, 1), now(3), 3, keep=(3,)),
    "none is good": Case(folder(2, 1), now(refused=(2, 1)), None),
    "nothing is there": Case(folder(), now(), None),
    "the pin is opened": Case(folder(3, 2, 1, pin=2), now(), None, open=2),
    "the pin serves": Case(folder(3, 2, 1, pin=2), now(2), 2, keep=(2,)),
    "a bad pin is no reason for another version": Case(
        folder(3, 2, 1, pin=2), now(refused=(2,)), None, problem="pinned version 2 is broken"
    ),
    "nor is an absent pin": Case(
        folder(3, 1, pin=2), now(), None, problem="pinned version 2 is absent"
    ),
    "nor is one that cannot be read": Case(
        folder(3, pin_problem="no pin"), now(), None, problem="no pin"
    ),
    # While something serves.
    "a new version is opened while the old one serves": Case(
        folder(4, 3), now(3, served=3), 3, open=4, keep=(3,)
    ),
    "it takes over, and the old one stays for a rollback": Case(
        folder(4, 3, 2), now(4, 3, 2, served=3, previous=2), 4, keep=(4, 3)
    ),
    "also later": Case(folder(4, 3, 2), now(4, 3, 2, served=4, previous=3), 4, keep=(4, 3)),
    "of versions that come quickly each serves as soon as it is loaded": Case(
        folder(6, 5, 4), now(5, 4, served=4), 5, open=6, keep=(5, 4)
    ),
    "and the older ones go": Case(
        folder(6, 5, 4, 3), now(5, 4, 3, served=4, previous=3), 5, open=6, keep=(5, 4)
    ),
    "or does not stay": Case(folder(4, 3), now(4, 3, served=3), 4, keep=(4,), policy=NO_PREVIOUS),
    "a bad new version changes nothing": Case(
        folder(4, 3), now(3, served=3, refused=(4,)), 3, keep=(3,)
    ),
    "a pin to what is loaded is obeyed at once": Case(
        folder(4, 3, pin=3), now(4, 3, served=4, previous=3), 3, keep=(4, 3)
    ),
    "and what served before it stays": Case(
        folder(4, 3, pin=3), now(4, 3, served=3, previous=4), 3, keep=(4, 3)
    ),
    "a pin to what is not loaded opens it": Case(
        folder(4, 3, 2, pin=2), now(4, 3, served=4, previous=3), 4, open=2, keep=(4, 3)
    ),
    "a pin that turns out bad changes nothing": Case(
        folder(4, 3, 2, pin=2),
        now(4, 3, served=4, refused=(2,)),
        4,
        keep=(4, 3),
        problem="pinned version 2 is broken",
    ),
    "an absent pin changes nothing": Case(
        folder(4, 3, pin=9),
        now(4, 3, served=3, previous=4),
        3,
        keep=(4, 3),
        problem="pinned version 9 is absent",
    ),
    "a pin that cannot be read changes nothing": Case(
        folder(5, 4, pin_problem="no pin"), now(4, served=4), 4, keep=(4,), problem="no pin"
    ),
    "without its pin a model goes on to the newest": Case(
        folder(4, 3), now(4, 3, served=3, previous=4), 4, keep=(4, 3)
    ),
    "what serves and was deleted goes on": Case(folder(3), now(4, served=4), 4, keep=(4,)),
    "until something newer proves": Case(folder(5, 3), now(4, served=4), 4, open=5, keep=(4,)),
    "then it is gone": Case(folder(5, 3), now(5, 4, served=5, previous=4), 5, keep=(5,)),
    "when everything is deleted all goes on": Case(
        folder(), now(4, 3, served=4, previous=3), 4, keep=(4, 3)
    ),
    "a pinned version that was deleted goes on": Case(
        folder(5, pin=4), now(4, served=4), 4, keep=(4,), problem="pinned version 4 is absent"
    ),
    # Versions beside the served one.
    "the older is opened when the newest serves": Case(
        folder(3, 2, 1), now(3), 3, open=2, keep=(3,), policy=TWO
    ),
    "a bad one is skipped": Case(
        folder(3, 2, 1), now(3, refused=(2,)), 3, open=1, keep=(3,), policy=TWO
    ),
    "as many stay as are wanted": Case(
        folder(3, 2, 1), now(3, 2, served=3), 3, keep=(3, 2), policy=TWO
    ),
    "the oldest goes when all are there": Case(
        folder(4, 3, 2, 1), now(4, 3, 2, 1, served=4, previous=3), 4, keep=(4, 3), policy=TWO
    ),
    "beside a pin are older ones": Case(
        folder(3, 2, 1, pin=2), now(2), 2, open=1, keep=(2,), policy=TWO
    ),
    # Other bytes under the same number.
    "what was replaced is opened anew while the old one serves": Case(
        folder(3), now(3, served=3, outdated=(3,)), 3, open=3, keep=(3,)
    ),
    "and goes on serving where the new bytes are bad": Case(
        folder(3, 2), now(3, served=3, refused=(3,)), 3, keep=(3,)
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_choice(case: Case) -> None:
    choice = choose(case.folder, case.now, case.policy)

    assert choice == Choice(case.serve, choice.reason, case.open, set(case.keep), case.problem)
    assert choice.reason


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        (folder(2, 1), "the newest that proves"),
        (folder(2, 1, pin=2), "pinned"),
        (folder(2, 1, pin=7), "pinned version 7 is absent"),
        (folder(), "no version is in the repository"),
    ],
)
def test_the_choice_says_why(folder: ModelFolder, reason: str) -> None:
    assert choose(folder, now(2, served=2), Policy()).reason == reason
