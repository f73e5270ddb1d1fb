"""Going on by a plan that is not the one a run was trained by: when that is as if it had been asked so at first.

Pure, no torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from itertools import zip_longest
from typing import Any, TypedDict

from stagetune.errors import ScheduleError
from stagetune.schedule.model import BACKBONE
from stagetune.schedule.plan import Plan, PlannedStage
from stagetune.typed import typed

_FOLLOWS = ("index", "start_epoch", "open_blocks", "frozen_prefix", "trainable_parameters")  # from other keys
_LENGTH = ("epochs", "steps", "until")
EVEN = ("constant", "plateau")  # rates that do not follow from a stage's length

_OR = "add a stage instead, start a new run, or say resume_with_new_schedule=true"


class _OfGroup(TypedDict):
    name: str
    parameters: list[str]


class _OfStage(TypedDict):
    name: str
    open: list[str]
    rates: dict[str, float]
    epochs: int | None
    steps: int | None
    until: dict[str, Any] | None


class _OfPlan(TypedDict):
    blocks: list[str]
    total_parameters: int
    held: list[str]
    groups: list[_OfGroup]
    stages: list[_OfStage]


class _State(TypedDict):
    """What a checkpoint says of the plan that it was trained by, as far as it is compared."""

    plan: _OfPlan
    stage_starts: list[Any]
    is_ended: bool


def check_resumable(state: Mapping[str, Any], now: Plan, *, accepts_new: bool) -> bool:
    """Whether a run that was trained by another plan goes on as another run by this one.

    Args:
        state: that of `StagedUnfreezing` in the checkpoint.
        now: the plan to go on by.
        accepts_new: whether it may be one by which the training so far would have been another.

    Returns:
        Whether it is such a one.

    Raises:
        ScheduleError: for such a plan that is not accepted, or that has no place for the stage that was begun last,
            and for a state that is none.
    """
    if "stage_starts" not in state:
        raise ScheduleError("the checkpoint is of an earlier stagetune; load its weights and start anew")
    problems: list[str] = []
    typed(_State, state, "StagedUnfreezing", problems)
    if problems:
        raise ScheduleError(
            f"the checkpoint was changed ({problems[0]}); take another copy of it, or start a new run"
        )
    before, after, begun = _before(state), now.as_data(), len(state["stage_starts"])
    if before == after:
        return False
    why = _why_another(before, after, begun=begun, is_ended=state["is_ended"])
    if not why:
        return False
    if not accepts_new:
        raise ScheduleError(f"the run was begun with another schedule: {_said(before, after)}; {why}")
    if begun > len(now.stages):
        raise ScheduleError(
            f"the run is in its stage {begun}, {before['stages'][begun - 1]['name']}, and the new schedule has only "
            f"{len(now.stages)}; give it as many, or start a new run"
        )
    return True


def new_plan_words(state: Mapping[str, Any], now: Plan) -> str:
    """What is said of a run that goes on by a plan which `check_resumable` takes; nothing where it is the same."""
    before, after = _before(state), now.as_data()
    if before == after:
        return ""
    is_other = _why_another(before, after, begun=len(state["stage_starts"]), is_ended=state["is_ended"])
    begun_so = "not as if it had been begun so" if is_other else "as if it had been begun so"
    return f", {_said(before, after)}: {begun_so}"


def _before(state: Mapping[str, Any]) -> dict[str, Any]:
    """The plan's data in a checkpoint, completed where it is of a time that lacked some."""
    lacking = {entry.name: entry.default for entry in fields(PlannedStage) if entry.default is not MISSING}
    return {**state["plan"], "stages": [{**lacking, **stage} for stage in state["plan"]["stages"]]}


def _said(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return "; ".join((list(_differences(before, now)) or ["its parameter groups are others"])[:3])


def _why_another(before: Mapping[str, Any], now: Mapping[str, Any], *, begun: int, is_ended: bool) -> str:
    """What to do where the training so far would have been another by the plan of now; empty where it is the same.

    It is where stages that have not begun are longer or shorter or more, and where the one that has begun last is
    longer, and nothing that has been done follows from its length.
    """
    is_longer = True
    for i, (old, new) in enumerate(zip_longest(before["stages"], now["stages"])):
        if old is None and new is not None and _pulled(now) <= _pulled(before):
            continue
        kept = (*_FOLLOWS[:2], *_LENGTH)
        if old is None or new is None or any(old[key] != new[key] for key in old if key not in kept):
            is_longer = False
        elif i < begun and any(old[key] != new[key] for key in _LENGTH):
            if i < begun - 1 or not _is_longer(old, new):
                is_longer = False
            elif old["lr_scheduler"] not in EVEN:
                shape = old["lr_scheduler"]
                name = shape if isinstance(shape, str) else str(shape["_target_"]).rpartition(".")[2]
                return (
                    f"its rates so far ({name}) follow from its length, so that it would have been trained "
                    f"otherwise; {_OR}"
                )
            elif old["steps"] is not None and is_ended:
                return f"its last epoch was cut short where the stage ended; {_OR}"
    others = [key for key in before if key not in ("name", "stages") and before[key] != now[key]]
    if is_longer and not others:
        return ""
    return "take the old one, start a new run, or say resume_with_new_schedule=true"


def _is_longer(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether of two stages that differ in their length at most the second ends no earlier."""
    if any((old[key] is None) != (new[key] is None) for key in _LENGTH):
        return False
    if old["until"] and {**old["until"], "max_epochs": 0} != {**new["until"], "max_epochs": 0}:
        return False
    return all(new[key] >= old[key] for key in ("epochs", "steps") if old[key] is not None)


def _pulled(plan: Mapping[str, Any]) -> set[str]:
    """The parameters that any stage pulls to where they were at first, which a checkpoint has kept."""
    opened = (name for stage in plan["stages"] if stage["l2_sp"] for name in stage["open"])
    return {name for name in opened if name.startswith(BACKBONE)}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two plans' data, in words."""
    if before["blocks"] != now["blocks"] or before["total_parameters"] != now["total_parameters"]:
        yield "the model is another"
    for name in sorted(set(before["held"]) ^ set(now["held"]), key=str)[:1]:
        yield f"{name} {'is held, was not' if name in now['held'] else 'was held, is not'}"
    if len(before["stages"]) != len(now["stages"]):
        yield f"it has {len(now['stages'])} stages, not {len(before['stages'])}"
    for old, new in zip(before["stages"], now["stages"], strict=False):
        where = f"stage {new['name']}:"
        for key in ("name", *(key for key in new if key not in ("name", *_FOLLOWS))):
            if key == "open" and old[key] != new[key]:
                other = sorted(set(old[key]) ^ set(new[key]), key=str)[0]
                yield f"{where} {other} is {'open' if other in new[key] else 'frozen'}, was not"
            elif key == "rates":
                was, now_is = (_rates(plan, stage) for plan, stage in ((before, old), (now, new)))
                for name in [name for name in now_is if now_is[name] != was.get(name)][:1]:
                    yield f"{where} the rate of {name} is {now_is[name]:g}, was {was.get(name, 0.0):g}"
            elif old[key] != new[key]:
                yield f"{where} {key} is {new[key]}, was {old[key]}"


def _rates(plan: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, float]:
    """The rate of each parameter, whatever groups they are divided into."""
    return {name: stage["rates"][group["name"]] for group in plan["groups"] for name in group["parameters"]}
