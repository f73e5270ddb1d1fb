"""By which plans a run goes on as if it had been asked so at first, by which as another run, and by which not."""

from typing import Any

import pytest

from stagetune.errors import ScheduleError
from stagetune.schedule.network import network_of
from stagetune.schedule.plan import Plan
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.resumable import check_resumable, new_plan_words
from stagetune.schedule.spec import Schedule, Stage, Until
from test_standalone import LAYERS, Module

MODEL = network_of(Module(), LAYERS).model
OR = "add a stage instead, start a new run, or say resume_with_new_schedule=true"
ONE_CYCLE = {"_target_": "torch.optim.lr_scheduler.OneCycleLR"}


def plan(*stages: Stage) -> Plan:
    return make_plan(Schedule(stages=list(stages), leave_frozen=True, monitor="val_loss"), MODEL)


def head(**settings: Any) -> Stage:
    return Stage("head", ["head"], **{"epochs": 2, "lr": 0.1, **settings})


def all_(**settings: Any) -> Stage:
    return Stage("all", ["all"], **{"epochs": 2, "lr": 0.1, **settings})


def state(before: Plan, begun: int, *, is_ended: bool = True) -> dict[str, Any]:
    return {"plan": before.as_data(), "stage_starts": [(0, 0)] * begun, "is_ended": is_ended}


def until(patience: int, max_epochs: int) -> Stage:
    return all_(epochs=None, until=Until(patience=patience, max_epochs=max_epochs))


AS_IF = [
    ("the same", [head(), all_()], [head(), all_()], 2, ""),
    ("longer", [head(), all_()], [head(), all_(epochs=5)], 2, "stage all: epochs is 5, was 2"),
    ("longer, with a warm-up", [all_(warmup=0.5)], [all_(warmup=0.5, epochs=5)], 1, "stage all: epochs is 5, was 2"),
    (
        "longer plateau",
        [all_(lr_scheduler="plateau")],
        [all_(lr_scheduler="plateau", epochs=3)],
        1,
        "stage all: epochs is 3, was 2",
    ),
    ("longer until", [until(1, 4)], [until(1, 8)], 1, "stage all: epochs is 8, was 4; stage all: until is "),
    (
        "another stage",
        [head(lr_scheduler="cosine")],
        [head(lr_scheduler="cosine"), all_()],
        1,
        "it has 2 stages, not 1",
    ),
    ("later ones", [head(), all_()], [head(), all_(epochs=1)], 1, "stage all: epochs is 1, was 2"),
    (
        "later ones, cosine",
        [head(), all_(lr_scheduler="cosine")],
        [head(), all_(lr_scheduler="cosine", epochs=9)],
        1,
        "stage all: epochs",
    ),
]

OTHERWISE = "so that it would have been trained otherwise"
ANOTHER = "take the old one, start a new run, or say resume_with_new_schedule=true"
ANOTHER_RUN = [
    (
        "cosine",
        [all_(lr_scheduler="cosine")],
        [all_(lr_scheduler="cosine", epochs=5)],
        1,
        True,
        f"its rates so far (cosine) follow from its length, {OTHERWISE}; {OR}",
    ),
    (
        "a class",
        [all_(lr_scheduler=ONE_CYCLE)],
        [all_(lr_scheduler=ONE_CYCLE, epochs=5)],
        1,
        True,
        f"its rates so far (OneCycleLR) follow from its length, {OTHERWISE}; {OR}",
    ),
    (
        "steps, over",
        [all_(epochs=None, steps=5)],
        [all_(epochs=None, steps=9)],
        1,
        True,
        f"its last epoch was cut short where the stage ended; {OR}",
    ),
    ("shorter", [all_()], [all_(epochs=1)], 1, False, ANOTHER),
    ("an earlier one", [head(), all_()], [head(epochs=3), all_()], 2, True, ANOTHER),
    ("another rate", [head(), all_()], [head(), all_(lr=0.2)], 1, True, ANOTHER),
    ("another patience", [until(1, 4)], [until(2, 8)], 1, True, ANOTHER),
    ("epochs for until", [until(1, 4)], [all_(epochs=8)], 1, True, ANOTHER),
    ("one pulled that was not", [head()], [head(), all_(l2_sp=0.1)], 1, True, ANOTHER),
    ("fewer, not begun", [head(), all_()], [head()], 1, True, ANOTHER),
]


@pytest.mark.parametrize(("before", "now", "begun", "said"), [case[1:] for case in AS_IF], ids=[c[0] for c in AS_IF])
def test_more_is_as_if_it_had_been_asked_at_first(
    before: list[Stage], now: list[Stage], begun: int, said: str
) -> None:
    kept = state(plan(*before), begun)
    assert check_resumable(kept, plan(*now), accepts_new=False) is False
    words = new_plan_words(kept, plan(*now))
    assert words.startswith(f", {said}" if said else "")
    assert words.endswith(": as if it had been begun so" if said else "")


def test_a_stage_of_steps_that_is_not_over_may_be_longer() -> None:
    before, now = (plan(all_(epochs=None, steps=n)) for n in (5, 9))
    assert check_resumable(state(before, 1, is_ended=False), now, accepts_new=False) is False


@pytest.mark.parametrize(
    ("before", "now", "begun", "is_ended", "why"), [case[1:] for case in ANOTHER_RUN], ids=[c[0] for c in ANOTHER_RUN]
)
def test_what_would_have_been_another_run_is_one_where_that_is_said(
    before: list[Stage], now: list[Stage], begun: int, is_ended: bool, why: str
) -> None:
    kept = state(plan(*before), begun, is_ended=is_ended)
    with pytest.raises(ScheduleError) as refused:
        check_resumable(kept, plan(*now), accepts_new=False)
    assert str(refused.value).startswith("the run was begun with another schedule: ")
    assert str(refused.value).endswith(f"; {why}")
    assert check_resumable(kept, plan(*now), accepts_new=True) is True
    assert new_plan_words(kept, plan(*now)).endswith(": not as if it had been begun so")
