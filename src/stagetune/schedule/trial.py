"""A trial of every stage on two samples before the first step: what would fail hours later fails now.

Everything that a module's steps may touch is put back: weights are never stepped, and gradients, buffers, attributes,
modes, random state and logged values are what they were, so that a run with and without it is the same bit for bit.
What cannot be tried (a loader without a dataset to take two samples from, a step that two samples are too few for)
is left to training.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from stagetune.errors import ScheduleError
from stagetune.schedule.freezing import Freezing
from stagetune.schedule.mentions import LOGS, mentions, own_of
from stagetune.schedule.plan import Plan, PlannedStage
from stagetune.schedule.undisturbed import undisturbed
from stagetune.seams import allows_unused, callbacks_of, sanity_checking

SAMPLES = 2
TOO_FEW = "Expected more than 1 value per channel"  # BatchNorm's, of what is left of two samples
ASKS = {"callback_metrics", "sanity_checking", "validating"}  # a module that may log otherwise in training
RUN = {"on_validation_epoch_end"}  # the hooks that the trial runs itself


def try_stages(trainer: Trainer, pl_module: LightningModule, freezing: Freezing, plan: Plan) -> None:
    """Run a training step on two samples, in eval mode and as each stage opens the module.

    Args:
        trainer: as training begins.
        pl_module: its module.
        freezing: that of the module; it is released after the trial.
        plan: whose stages are tried.

    Raises:
        ScheduleError: for a step that fails in a stage and not in eval mode; with several processes, for open
            parameters that it never uses; and for a metric that no step of the module logs.
    """
    samples = _samples(trainer.train_dataloader)
    if not trainer.strategy.reduce_boolean_decision(samples is not None):
        return
    network = freezing.network
    if isinstance(network.backbone, torch.jit.ScriptModule):  # takes no hook
        return
    answers: list[str] = []
    with undisturbed(trainer, pl_module) as logged:
        hook = network.backbone.register_forward_hook(lambda *args: answers.append(_kind(args[-1])))
        try:
            pl_module.eval()
            batch = _on_device(trainer, samples)
            _, error = _step(trainer, pl_module, batch)
            if batch is None or error is not None:
                return
            in_eval = answers[-1] if answers else ""
            for stage in _distinct(plan):
                freezing.open_only(set(stage.open), stage.batch_norm)
                loss, error = _step(trainer, pl_module, batch)
                if error is not None and TOO_FEW not in str(error):
                    kind = f"{type(error).__name__}: {error}"
                    raise ScheduleError(_failure(stage, kind, answers[-1] if answers else "", in_eval)) from error
                if isinstance(loss, Tensor) and loss.requires_grad and _has_gradients(loss):
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


def _has_gradients(loss: Tensor) -> bool:
    """Go backward; false for a loss that only a backward of one's own can take."""
    try:
        torch.autograd.backward(loss)
    except RuntimeError:
        return False
    return True


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
    if isinstance(trainer.strategy, DDPStrategy) and trainer.world_size > 1:
        if not allows_unused(trainer):
            raise ScheduleError(
                f"{found}, and which several processes wait for; hold it with requires_grad_(False), or use "
                "strategy='ddp_find_unused_parameters_true'"
            )
        return
    rank_zero_warn(f"{found}; it will stay as it is")


def _check_monitors(trainer: Trainer, pl_module: LightningModule, plan: Plan, logged: set[str]) -> None:
    """Raise for a metric that nothing logs, as far as that can be told: not where others may log, too."""
    kind = type(pl_module)
    samples = _samples(trainer.val_dataloaders)
    if trainer.enable_validation and (samples is None or isinstance(trainer.val_dataloaders, list | tuple | dict)):
        return
    callbacks = [c for c in callbacks_of(trainer) if not type(c).__module__.startswith("stagetune.schedule.")]
    if any(mentions(own, "on_", LOGS) for callback in callbacks for own in (type(callback), callback)):
        return
    hooks = ("on_", "optimizer", "configure_g")
    if mentions(kind, "", ASKS) or mentions(kind, hooks, LOGS, RUN) or "log" in own_of(kind):
        return
    if samples is not None:
        try:
            pl_module.eval()
            with torch.no_grad(), sanity_checking(trainer), trainer.precision_plugin.forward_context():
                _call(pl_module.validation_step, _on_device(trainer, samples))
                pl_module.on_validation_epoch_end()
        except Exception:  # two samples may be too few for a metric
            return
    for stage in plan.stages:
        stem = str(stage.monitor).partition("/dataloader_idx_")[0]
        if stage.is_watched and not {stem, stem.removesuffix("_epoch"), stem.removesuffix("_step")} & logged:
            measured = ", ".join(sorted(logged)) or "none"
            raise ScheduleError(f"stage {stage.name} looks at {stage.monitor}, measured are: {measured}")


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


def _samples(loaders: Any) -> Any | None:
    """Two samples of a loader, or of each of several, without taking any from it; None if it has none.

    They are read in a process of their own, so that the dataset stays as it is: one that opens its file as the first
    sample is asked for would share it with all workers. A loader that is no DataLoader may say itself how:
    `sample(count)`.
    """
    try:
        with isolate_rng():
            return tree_map(_samples_of, loaders)
    except Exception:  # somebody's data
        return None


def _samples_of(loader: Any) -> Any:
    if hasattr(loader, "sample"):
        return loader.sample(SAMPLES)
    if not isinstance(loader, DataLoader):
        raise TypeError("only a DataLoader has a dataset")
    takes: dict[str, Any] = {"batch_sampler": [list(range(min(SAMPLES, len(loader.dataset))))]}  # type: ignore[arg-type]
    if loader.batch_sampler is None:  # the dataset gives whole batches
        if not isinstance(loader.sampler, SequentialSampler | RandomSampler):
            raise TypeError("what such a sampler gives next is part of its course")
        takes = {"batch_size": None, "sampler": [0]}
    reader: DataLoader[Any] = DataLoader(
        loader.dataset, **takes, num_workers=1, collate_fn=loader.collate_fn, worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context or "fork",
    )  # fmt: skip
    (batch,) = reader
    if loader.batch_sampler is None:
        return tree_map(lambda part: part[:SAMPLES] if isinstance(part, Tensor) and part.ndim else part, batch)
    return batch


def _on_device(trainer: Trainer, samples: Any) -> Any | None:
    """The samples as a batch, as the module's hooks hand it on; None where they cannot."""
    try:
        return trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(samples), dataloader_idx=0)
    except Exception:  # somebody's hooks
        return None
