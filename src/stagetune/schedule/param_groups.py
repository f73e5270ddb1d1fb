"""The optimizer's parameter groups: complete before the first step, every parameter in exactly one."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from stagetune.errors import ScheduleError
from stagetune.schedule.plan import NO_DECAY, Plan, PlannedStage


def regroup(optimizer: Optimizer, module: nn.Module, plan: Plan) -> None:
    """Divide the optimizer's groups into the plan's, named; each parameter keeps the settings that it had.

    With one group to begin with, norms and biases are taken out of weight decay; several groups are somebody's
    own choice and keep theirs. Raises `ScheduleError` for a parameter of the module that no group holds, told
    apart by identity: fresh BatchNorm layers are equal by value.
    """
    given = list(optimizer.param_groups)
    holder = {id(parameter): number for number, group in enumerate(given) for parameter in group["params"]}
    parameters = dict(module.named_parameters())
    if lost := [name for name, parameter in parameters.items() if id(parameter) not in holder]:
        raise ScheduleError(
            f"{len(lost)} parameters are in no optimizer group and would never be trained, such as {lost[0]}; "
            "give the optimizer all of the module's parameters, the stages decide which are trained"
        )
    groups: list[dict[str, Any]] = []
    for group in plan.groups:
        holders = list(dict.fromkeys(holder[id(parameters[name])] for name in group.parameters))
        for number in holders:
            names = [name for name in group.parameters if holder[id(parameters[name])] == number]
            settings = {key: value for key, value in given[number].items() if key not in ("params", "param_names")}
            if len(given) == 1 and not group.decays and "weight_decay" in settings:
                settings["weight_decay"] = 0.0
            label = group.name if len(holders) == 1 else f"{group.name}/{number}"
            own = [parameters[name] for name in names]
            groups.append({"params": own, "param_names": names, **settings, "name": label, "plan_group": group.name})
    optimizer.param_groups[:] = groups  # in place: Lightning's wrapper holds the same list


def set_rates(optimizer: Optimizer, given: Sequence[Mapping[str, Any]], stage: PlannedStage) -> None:
    """Give every group its `given` settings and the stage's rate and weight decay; norms and biases never decay."""
    for group, own in zip(optimizer.param_groups, given, strict=True):
        for key in group.keys() - own.keys() - {"params"}:
            del group[key]  # what an earlier stage's scheduler left behind
        group.update(own)
        group["lr"] = group["initial_lr"] = stage.rates[group["plan_group"]]
        if "weight_decay" in group and stage.weight_decay is not None and not group["plan_group"].endswith(NO_DECAY):
            group["weight_decay"] = stage.weight_decay


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """All settings of each group, without its parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def carry_over(saved: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The saved state of an optimizer over other groups, as a state for this one; parameters are told by name."""
    names = [name for group in saved["param_groups"] for name in group["param_names"]]
    ids = [number for group in saved["param_groups"] for number in group["params"]]
    known = {
        name: saved["state"][number] for name, number in zip(names, ids, strict=True) if number in saved["state"]
    }
    now = optimizer.state_dict()
    for group in now["param_groups"]:
        for name, number in zip(group["param_names"], group["params"], strict=True):
            if name in known:
                now["state"][number] = known[name]
    return now
