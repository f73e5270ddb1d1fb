"""The learning rate of every open parameter of a stage. Pure, no torch."""

import math
from collections.abc import Mapping, Set

from stagetune.errors import ScheduleError
from stagetune.schedule.model import Model
from stagetune.schedule.selectors import select
from stagetune.schedule.spec import ALL, SELECTORS, Stage


def stage_rates(config: Stage, opened: Set[str], model: Model) -> Mapping[str, float]:
    """Learning rate by parameter, for those that are open.

    `lrs` goes first: the rate of the first of its keys that names the parameter. Others get `lr` at the head and
    `lr_decay` times the rate of the block above at each block below, or `lr_range` spread evenly (in ratio) from
    the deepest open block to the topmost. Raises `ScheduleError` where a rate is missing or given twice.
    """
    if config.lr is not None and config.lr_range is not None:
        raise ScheduleError("gives both lr and lr_range; leave one of them out")
    by_block = _block_rates(config, opened, model)
    own: dict[str, float] = {}
    for key, rate in (config.lrs or {}).items():
        for name in _named(key, model):
            own.setdefault(name, float(rate))
    rates = {}
    for parameter in model.parameters:
        if parameter.name in opened:
            rate = own.get(parameter.name, by_block.get(parameter.block))
            if rate is None:
                raise ScheduleError(f"gives {parameter.name} no learning rate; add lr, lr_range, or a key to lrs")
            rates[parameter.name] = rate
    return rates


def _block_rates(config: Stage, opened: Set[str], model: Model) -> dict[str, float]:
    own = {p.block for p in model.parameters}
    blocks = [block for block in model.ordered_blocks if block in own]  # others have no rate to go down by
    if config.lr is not None:
        return {block: config.lr * config.lr_decay**depth for depth, block in enumerate(reversed(blocks))}
    if config.lr_range is not None:
        if len(config.lr_range) != 2 or not all(0 < rate < math.inf for rate in config.lr_range):
            raise ScheduleError(
                f"lr_range: {config.lr_range} is no range; give [lowest, highest], both greater than 0"
            )
        low, high = config.lr_range
        present = {p.block for p in model.parameters if p.name in opened}
        spread = [block for block in blocks if block in present]
        steps = max(len(spread) - 1, 1)
        return {block: high * (low / high) ** ((len(spread) - 1 - i) / steps) for i, block in enumerate(spread)}
    return {}


def _named(key: str, model: Model) -> frozenset[str]:
    """A key of `lrs`: a block, a glob, a range of layers such as 0%:25%, or a selector such as last:20."""
    if key in (*model.ordered_blocks, ALL):
        return select(key, model)
    kind, colon, value = key.partition(":")
    if colon and kind in SELECTORS:
        return select({kind: value}, model)
    return select({"index" if colon else "match": key}, model)
