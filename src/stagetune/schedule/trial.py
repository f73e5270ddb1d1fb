"""A trial of every stage on two samples before the first step: what would fail hours later fails now.

Everything that a module's steps may touch is put back: weights are never stepped, and gradients, buffers, attributes,
modes, random state and logged values are what they were, so that a run with and without it is the same bit for bit.
What cannot be tried (a loader without a dataset to take two samples from, a step that two samples are too few for)
is left to training.
"""

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from stagetune.errors import ScheduleError
from stagetune.schedule.freezing import Freezing
from stagetune.schedule.plan import Plan, PlannedStage

SAMPLES = 2
TOO_FEW = "Expected more than 1 value per channel"  # BatchNorm's, of what is left of two samples
LOGS = {"log", "log_dict", "callback_metrics"}


def try_stages(trainer: Trainer, pl_module: LightningModule, freezing: Freezing, plan: Plan) -> None:
    """Run a training step on two samples, in eval mode and as each stage opens the module.

    Args:
        trainer: as training begins.
        pl_module: its module.
        freezing: that of the module; it is released behind the trial.
        plan: whose stages are tried.

    Raises:
        ScheduleError: for a step that fails in a stage and not in eval mode; with several processes, for open
            parameters that it never uses; and for a metric that no step of the module logs.
    """
    batch = _sample(trainer, trainer.train_dataloader)
    if not trainer.strategy.reduce_boolean_decision(batch is not None):
        return
    network = freezing.network
    answers: list[str] = []
    with _undisturbed(pl_module) as logged:
        hook = network.backbone.register_forward_hook(lambda *args: answers.append(_kind(args[-1])))
        try:
            pl_module.eval()
            _, error = _step(trainer, pl_module, batch)
            if error is not None:
                return
            in_eval = answers[-1] if answers else ""
            for stage in _distinct(plan):
                freezing.open_only(set(stage.open), stage.batch_norm)
                loss, error = _step(trainer, pl_module, batch)
                if error is not None and TOO_FEW not in str(error):
                    kind = f"{type(error).__name__}: {error}"
                    raise ScheduleError(_failure(stage, kind, answers[-1] if answers else "", in_eval)) from error
                if isinstance(loss, Tensor) and loss.requires_grad:
                    torch.autograd.backward(loss)
                    _check_used(trainer, stage, [n for n in stage.open if network.parameters[n].grad is None])
                network.module.zero_grad(set_to_none=True)
        finally:
            hook.remove()
            freezing.release()
        if any(stage.is_watched for stage in plan.stages):
            _check_monitors(trainer, pl_module, plan, logged)


def _distinct(plan: Plan) -> Iterator[PlannedStage]:
    """The first of those stages that open the same."""
    seen = set()
    for stage in plan.stages:
        if (stage.open, stage.batch_norm) not in seen:
            seen.add((stage.open, stage.batch_norm))
            yield stage


def _failure(stage: PlannedStage, error: str, in_training: str, in_eval: str) -> str:
    if in_training == in_eval:
        return f"stage {stage.name}: training_step fails with what it opens in train mode ({error})"
    return (
        f"stage {stage.name}: in train mode the backbone gives a {in_training}, in eval mode a {in_eval}, "
        f"and training_step fails ({error}); switch its further outputs off, such as aux_logits=False, or take both"
    )


def _check_used(trainer: Trainer, stage: PlannedStage, unused: Sequence[str]) -> None:
    if not unused or len(unused) == len(stage.open):  # a loss may be 0 for two samples alone
        return
    more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
    found = f"stage {stage.name} opens {unused[0]}{more}, which training_step never uses"
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and trainer.world_size > 1:
        if not {"find_unused_parameters", "static_graph"} & {key for key, on in strategy._ddp_kwargs.items() if on}:
            raise ScheduleError(
                f"{found}, and which several processes wait for; hold it with requires_grad_(False), or use "
                "strategy='ddp_find_unused_parameters_true'"
            )
        return
    rank_zero_warn(f"{found}; it will stay as it is")


def _check_monitors(trainer: Trainer, pl_module: LightningModule, plan: Plan, logged: set[str]) -> None:
    """Raise for a metric that nothing logs, as far as that can be told: not where others may log, too."""
    batch = _sample(trainer, trainer.val_dataloaders)
    if batch is None and trainer.enable_validation:
        return
    others: list[Any] = [type(callback) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    if any(_may_log(kind, Callback, set()) for kind in others) or _may_log(
        type(pl_module), LightningModule, {"training_step", "validation_step", "on_validation_epoch_end"}
    ):
        return
    if batch is not None:
        before, trainer.sanity_checking = trainer.state.stage, True
        try:
            pl_module.eval()
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                _call(pl_module.validation_step, batch)
                pl_module.on_validation_epoch_end()
        except Exception:  # two samples may be too few for a metric
            return
        finally:
            trainer.state.stage = before
    for stage in plan.stages:
        stem = str(stage.monitor).partition("/dataloader_idx_")[0]
        if stage.is_watched and not {stem, stem.removesuffix("_epoch"), stem.removesuffix("_step")} & logged:
            measured = ", ".join(sorted(logged)) or "none"
            raise ScheduleError(f"stage {stage.name} looks at {stage.monitor}, measured are: {measured}")


def _may_log(kind: type, base: type, but: set[str]) -> bool:
    """Whether a hook that a class adds to Lightning's `base`, other than those in `but`, mentions logging."""
    own = [c for c in kind.__mro__ if not c.__module__.startswith(("lightning.", "pytorch_lightning.", "torch."))]
    hooks = {name: value for c in reversed(own) for name, value in vars(c).items() if name.startswith("on_")}
    return issubclass(kind, base) and any(
        name not in but and bool(LOGS & _names(getattr(value, "__code__", None))) for name, value in hooks.items()
    )


def _names(code: CodeType | None) -> set[str]:
    if code is None:
        return set()
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _step(trainer: Trainer, pl_module: LightningModule, batch: Any) -> tuple[Any, Exception | None]:
    """The loss of a training step, or what it raises."""
    try:
        with torch.enable_grad(), trainer.precision_plugin.train_step_context():
            output = _call(pl_module.training_step, batch)
    except Exception as error:  # somebody's code
        return None, error
    return (output.get("loss") if isinstance(output, dict) else output), None


def _call(step: Callable[..., Any], batch: Any) -> Any:
    """A step with as many of batch, batch_idx and dataloader_idx as it takes."""
    kinds = [p.kind for p in inspect.signature(step).parameters.values()]
    takes = len(kinds) if inspect.Parameter.VAR_POSITIONAL not in kinds else 2
    return step(*(batch, 0, 0)[: min(takes, 3)])


def _kind(answer: Any) -> str:
    return "Tensor" if isinstance(answer, Tensor) else type(answer).__name__


def _sample(trainer: Trainer, loaders: Any) -> Any | None:
    """Two samples of a loader on the device, or of each of several, without taking any from it; None if it has none.

    A loader that is no DataLoader may say itself how: `sample(count)`.
    """
    try:
        with isolate_rng():
            batch = tree_map(_samples_of, loaders)
            batch = trainer.precision_plugin.convert_input(batch)
            return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
    except Exception:  # somebody's data
        return None


def _samples_of(loader: Any) -> Any:
    if hasattr(loader, "sample"):
        return loader.sample(SAMPLES)
    if not isinstance(loader, DataLoader):
        raise TypeError("only a DataLoader has a dataset")
    data: Any = loader.dataset
    count = min(SAMPLES, len(data))
    if loader.batch_sampler is not None:
        rows = (
            data.__getitems__(list(range(count)))
            if hasattr(data, "__getitems__")
            else [data[i] for i in range(count)]
        )
        return loader.collate_fn(rows)
    if not isinstance(loader.sampler, SequentialSampler | RandomSampler):
        raise TypeError("what such a sampler gives next is part of its course")
    whole = loader.collate_fn(data[0])  # the dataset gives whole batches
    return tree_map(lambda part: part[:SAMPLES] if isinstance(part, Tensor) and part.ndim else part, whole)


@contextmanager
def _undisturbed(pl_module: LightningModule) -> Iterator[set[str]]:
    """Whatever is run within leaves no trace; gives the names that are logged."""
    logged: set[str] = set()
    gradients = [(parameter, parameter.grad) for parameter in pl_module.parameters()]
    kept = _Kept(pl_module, {})
    for parameter, _ in gradients:
        parameter.grad = None
    pl_module.__dict__["log"] = lambda name, *_, **__: logged.add(name)
    try:
        with isolate_rng(), torch.compiler.set_stance("force_eager"):
            yield logged
    finally:
        kept.put_back()
        pl_module.__dict__.pop("log", None)
        for parameter, gradient in gradients:
            parameter.grad = gradient


class _Kept:
    """A module, container or tensor as it is now, with all that is in it; the objects stay the same ones."""

    def __init__(self, value: Any, memo: dict[int, "_Kept"]) -> None:
        self.value = value
        memo[id(value)] = self
        self.content: Any
        if isinstance(value, nn.Module):
            self.content = {key: _keep(part, memo) for key, part in vars(value).items()}
        elif isinstance(value, dict):
            self.content = {key: _keep(part, memo) for key, part in value.items()}
        elif isinstance(value, list | deque):
            self.content = [_keep(part, memo) for part in value]
        else:
            self.content = value.detach().clone() if isinstance(value, Tensor) else set(value)
        self._is_put_back = False

    def put_back(self) -> Any:
        if self._is_put_back:
            return self.value
        self._is_put_back = True
        value, content = self.value, self.content
        if isinstance(value, Tensor):
            if not torch.equal(value, content):
                with torch.no_grad():
                    value.copy_(content)
        elif isinstance(value, set):
            value.clear()
            value.update(content)
        elif isinstance(content, dict):
            target = vars(value) if isinstance(value, nn.Module) else value
            parts = {key: _put_back(part) for key, part in content.items()}
            target.clear()
            target.update(parts)
        else:
            parts_in_order = [_put_back(part) for part in content]
            value.clear()
            value.extend(parts_in_order)
        return value


def _keep(value: Any, memo: dict[int, _Kept]) -> Any:
    if id(value) in memo:
        return memo[id(value)]
    is_state = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
    return _Kept(value, memo) if is_state or isinstance(value, nn.Module | dict | list | deque | set) else value


def _put_back(part: Any) -> Any:
    return part.put_back() if isinstance(part, _Kept) else part
