"""The optimizer's parameter groups: complete before the first step, every parameter in exactly one."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from stagetune.errors import ScheduleError
from stagetune.schedule.plan import NO_DECAY, Plan, Stage


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
            own = [parameters[name] for name in group.parameters if holder[id(parameters[name])] == number]
            settings = {key: value for key, value in given[number].items() if key != "params"}
            if len(given) == 1 and not group.decays and "weight_decay" in settings:
                settings["weight_decay"] = 0.0
            name = group.name if len(holders) == 1 else f"{group.name}/{number}"
            groups.append({"params": own, **settings, "name": name, "plan_group": group.name})
    optimizer.param_groups[:] = groups  # in place: Lightning's wrapper holds the same list


def set_rates(optimizer: Optimizer, stage: Stage) -> None:
    """Give every group the stage's learning rate and weight decay; norms and biases never decay."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = stage.rates[group["plan_group"]]
        if "weight_decay" in group:
            own = group.setdefault("initial_weight_decay", group["weight_decay"])
            changed = stage.weight_decay is not None and not group["plan_group"].endswith(NO_DECAY)
            group["weight_decay"] = stage.weight_decay if changed else own
