"""The optimizer's parameter groups: complete before the first step, every parameter in exactly one."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from stagetune.errors import ScheduleError
from stagetune.schedule.model import BACKBONE
from stagetune.schedule.network import Network
from stagetune.schedule.plan import NO_DECAY, Plan, PlannedStage

SCHEDULED = ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")  # what torch's schedulers add
MOVED = ("lr", "momentum", "betas", "weight_decay")  # and what they, or stages, move


def regroup(optimizer: Optimizer, network: Network, plan: Plan) -> None:
    """Divide the optimizer's groups into the plan's, named; each parameter keeps the settings that it had.

    With one group to begin with, norms and biases are taken out of weight decay; several groups are somebody's
    own choice and keep theirs. What is held leaves the optimizer. Parameters are told apart by identity: fresh
    BatchNorm layers are equal by value.

    Args:
        optimizer: as the module's `configure_optimizers` made it.
        network: the module that it trains.
        plan: whose groups it shall have.

    Raises:
        ScheduleError: for a parameter that the plan trains and no group holds, and for one that the optimizer holds
            and the plan does not know.
    """
    given = list(optimizer.param_groups)
    holder = {id(parameter): number for number, group in enumerate(given) for parameter in group["params"]}
    planned = {name: network.parameters[name] for group in plan.groups for name in group.parameters}
    opened = {name for stage in plan.stages for name in stage.open}
    planned = {name: p for name, p in planned.items() if name in opened or id(p) in holder}
    if lost := [name for name, parameter in planned.items() if id(parameter) not in holder]:
        raise ScheduleError(
            f"{len(lost)} parameters are in no optimizer group and would never be trained, such as {lost[0]}; "
            "give the optimizer all of the module's parameters, the stages decide which are trained"
        )
    known = set(map(id, network.parameters.values()))
    strange = [tuple(p.shape) for group in given for p in group["params"] if id(p) not in known]
    if strange:
        raise ScheduleError(
            f"the optimizer holds {len(strange)} parameters that are not the module's, such as one of shape "
            f"{strange[0]}; make the layer that they belong to an attribute of the module"
        )
    groups: list[dict[str, Any]] = []
    for group in plan.groups:
        members = [name for name in group.parameters if name in planned]
        holders = list(dict.fromkeys(holder[id(planned[name])] for name in members))
        for number in holders:
            names = [name for name in members if holder[id(planned[name])] == number]
            settings = {key: value for key, value in given[number].items() if key not in ("params", "param_names")}
            if len(given) == 1 and not group.decays and "weight_decay" in settings:
                settings["weight_decay"] = 0.0
            label = group.name if len(holders) == 1 else f"{group.name}/{number}"
            own = [planned[name] for name in names]
            groups.append({"params": own, "param_names": names, **settings, "name": label, "plan_group": group.name})
    optimizer.param_groups[:] = groups  # in place: Lightning's wrapper holds the same list


def set_rates(optimizer: Optimizer, given: Sequence[Mapping[str, Any]], stage: PlannedStage) -> None:
    """Give every group its `given` settings and the stage's rate and weight decay; norms and biases never decay.

    What an optimizer keeps in its groups, such as a count of steps, is its own and stays.
    """
    for group, own in zip(optimizer.param_groups, given, strict=True):
        for key in SCHEDULED:
            group.pop(key, None)  # what an earlier stage's scheduler left
        group.update({key: own[key] for key in (*SCHEDULED, *MOVED) if key in own})
        group["lr"] = group["initial_lr"] = stage.rates[group["plan_group"]]
        if "weight_decay" in group and not group["plan_group"].endswith(NO_DECAY):
            if stage.l2_sp and group["param_names"][0].startswith(BACKBONE):
                group["weight_decay"] = 0.0
            elif stage.weight_decay is not None:
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
