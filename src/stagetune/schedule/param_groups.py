"""The optimizer's parameter groups: complete from the first step, every parameter in exactly one."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from stagetune.errors import ScheduleError
from stagetune.schedule.freezing import describe
from stagetune.schedule.plan import Plan, make_groups


def param_groups(module: nn.Module) -> list[dict[str, Any]]:
    """The named groups of a module with a backbone, for any optimizer; norms and biases without weight decay.

    They carry no learning rate: `StagedUnfreezing` sets the rates of each stage.
    """
    by_name = dict(module.named_parameters())
    groups: list[dict[str, Any]] = []
    for group in make_groups(describe(module)):
        members = {"name": group.name, "params": [by_name[name] for name in group.parameters]}
        groups.append(members if group.decays else {**members, "weight_decay": 0.0})
    return groups


def check_groups(module: nn.Module, groups: Sequence[Mapping[str, Any]], plan: Plan) -> None:
    """Raise `ScheduleError` unless every parameter stands in exactly one group, under the plan's names.

    Parameters are told apart by identity: fresh BatchNorm layers are equal by value.
    """
    remedy = "build the optimizer from stagetune.schedule.param_groups.param_groups(module)"
    names = dict(module.named_parameters())
    name_of = {id(parameter): name for name, parameter in names.items()}
    held: dict[int, str] = {}
    for group in groups:
        for parameter in group["params"]:
            name = str(group.get("name", "one without a name"))
            if id(parameter) in held:
                raise ScheduleError(
                    f"parameter {name_of.get(id(parameter), '?')} stands in two optimizer groups, "
                    f"{held[id(parameter)]} and {name}; {remedy}"
                )
            held[id(parameter)] = name
    lost = [name for name, parameter in names.items() if id(parameter) not in held]
    if lost:
        raise ScheduleError(
            f"{len(lost)} parameters are in no optimizer group and would never be trained, "
            f"such as {lost[0]}; {remedy}"
        )
    expected = [group.name for group in plan.groups]
    found = [str(group.get("name", "(no name)")) for group in groups]
    if found != expected:
        raise ScheduleError(
            f"the optimizer's groups are {', '.join(found)}, but the plan has {', '.join(expected)}; {remedy}"
        )
