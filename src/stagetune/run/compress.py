"""A run that prunes: channels left out before the plan is made, and what that costs and gains, measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from stagetune.config.schema import Config
from stagetune.data.datamodule import StagedData
from stagetune.data.samplers import shuffled_batches
from stagetune.evaluation.roc import Roc
from stagetune.models.backbone import Backbone
from stagetune.models.cut import cut
from stagetune.models.prune import block_of, prune
from stagetune.run.latency import latencies
from stagetune.run.precision import device_type
from stagetune.run.processes import from_rank_zero
from stagetune.schedule.table import columns, count_words
from stagetune.tasks.classification import ClassificationTask
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask

BATCHES = 32  # of training images, from which BatchNorm is re-estimated
METRICS: dict[type[StagedTask], str] = {ClassificationTask: "val/accuracy", SiameseTask: "val/auc"}
MEASURED = "PyTorch fp32 on the CPU with one thread, the median of rounds that alternate"


def compress(config: Config, task: StagedTask, data: StagedData) -> None:
    """Prune the task's backbone in place, as `model.prune.ratio` asks, and re-estimate its BatchNorm.

    One process does so, and the others take over what it has done. What was removed and measured is in the task's
    metadata from then on; where nothing is asked for, nothing is done.

    Args:
        config: of the run.
        task: with the weights that training would begin with.
        data: whose training images BatchNorm sees, and whose validation images say what it costs.

    Raises:
        ConfigError: for a backbone that cannot be pruned.
    """
    if config.model.prune.ratio is None:
        return
    done: tuple[dict[str, Any], dict[str, Tensor]] | None = None
    if data.rank == 0:
        with torch.random.fork_rng(devices=[]):  # loaders draw; the run's own numbers stay as they would be
            done = _pruned(config, task, data)
    entry, buffers = from_rank_zero(done, data.world_size)
    if data.rank > 0:
        cut(task.backbone, entry["removed"])
        task.backbone.relearn(data.image_size)
        task.load_state_dict(buffers, strict=False)
    task.metadata = replace(task.metadata, pruning=[*task.metadata.pruning, entry])


def pruning_words(figures: dict[str, Any]) -> str:
    """What was removed and measured, a line for each thing to know of it; empty where nothing was pruned."""
    if not figures:
        return ""
    counts = ", ".join(
        f"{count_words(figures[key]['before'])} to {count_words(figures[key]['after'])} {name}"
        for key, name in (("parameters", "parameters"), ("macs", "multiply-adds an image"))
    )
    times = ", ".join(
        f"{figures['latency_ms']['before'][size]:.2f} to {figures['latency_ms']['after'][size]:.2f} ms an image in "
        f"batches of {size}"
        for size in figures["latency_ms"]["before"]
    )
    return "\n".join(
        [
            f"{100 * figures['ratio']:g}% of its channels left out: {counts}",
            f"{times} ({figures['latency_ms']['measured']})",
            quality_words(figures),
        ]
    )


def quality_words(figures: dict[str, Any]) -> str:
    """What it costs in quality, as far as that is known yet."""
    if "quality" not in figures:
        return "what it costs in quality is not measured: the head is new (model.head=keep keeps that of the run)"
    return f"{figures['metric']} " + ", ".join(f"{value:.4f} {when}" for when, value in figures["quality"].items())


def blocks_text(figures: dict[str, Any]) -> str:
    """For plan.txt: what each block lost, and why it keeps the rest; empty where nothing was pruned."""
    if not figures:
        return ""
    rows = [("pruned block", "parameters before", "after", "left out", "keeps channels, since")]
    for name, block in figures["blocks"].items():
        before, after = block["before"], block["after"]
        share = f"{1 - after / before:.0%}" if after < before else "nothing"
        rows.append((name, f"{before:,}", f"{after:,}", share, ", ".join(block["kept_for"])))
    return "\n".join(["", f"pruned by model.prune.ratio={figures['ratio']:g}", "", *columns(rows), ""])


def _pruned(config: Config, task: StagedTask, data: StagedData) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The entry of the metadata, and the state of all BatchNorms of the task."""
    ratio, backbone, kind = config.model.prune.ratio, task.backbone, METRICS[type(task)]
    assert ratio is not None
    is_kept = config.model.head == "keep"
    device = torch.device(device_type(str(config.trainer.get("accelerator", "auto"))))
    values: dict[str, float] = {}

    def measure(when: str) -> None:
        if is_kept:
            values[when] = quality(task, data, device)

    measure("before")
    original = deepcopy(backbone)
    found = prune(backbone, ratio, data.image_size)
    measure("pruned")
    batches = re_estimate(task if is_kept else backbone, data, config.data.division()["seed"], device)
    measure("re-estimated")
    blocks = {
        name: {"before": before, "after": after, "kept_for": found.kept_for.get(name, [])}
        for (name, before), after in zip(_counts(original).items(), _counts(backbone).values(), strict=True)
    }
    figures: dict[str, Any] = {
        "ratio": ratio,
        "parameters": {"before": _size(original) + _size(task.head), "after": _size(backbone) + _size(task.head)},
        "macs": {"before": macs(original, data.image_size), "after": macs(backbone, data.image_size)},
        "latency_ms": {**_latencies(original, backbone, data.image_size), "measured": MEASURED},
        "blocks": blocks,
        "batches": batches,
    }
    if is_kept:
        figures |= {"metric": kind, "quality": values}
    norms = {name for name, layer in task.named_modules() if isinstance(layer, _BatchNorm)}
    state = {name: value for name, value in task.state_dict().items() if name.rpartition(".")[0] in norms}
    return {"ratio": ratio, "removed": found.removed, "figures": figures}, state


def re_estimate(network: nn.Module, data: StagedData, seed: int, device: torch.device) -> int:
    """Let every BatchNorm measure its mean and variance anew, cumulatively, over training images as they are.

    Args:
        network: a task, or a backbone; all else in it is in eval mode meanwhile and stays as it is.
        data: of which `BATCHES` batches are read, or all there are.
        seed: decides which images, and their order.
        device: where it computes.

    Returns:
        The number of batches; 0 where there is no BatchNorm that measures.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms:
        return 0
    order = np.random.default_rng(seed).permutation(len(data.parts["plain"]))[: BATCHES * data.batch_size]
    rows = [order[i : i + data.batch_size].tolist() for i in range(0, len(order), data.batch_size)]
    rows = [row for row in rows if len(row) == data.batch_size] or rows  # a rest has a variance of its own
    momenta = [norm.momentum for norm in norms]
    with _evaluating(network), torch.no_grad():
        network.to(device)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over batches
            norm.training = True
        for batch in data.in_order("plain", rows):
            network(batch.inputs.to(device))
        network.to("cpu")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return len(rows)


def macs(backbone: Backbone, image_size: int) -> int:
    """Multiply-adds of one image, of convolutions and products of matrices, as torch counts them."""
    # with gradients: what attention computes the fast way without them is not counted
    with _evaluating(backbone), torch.enable_grad(), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
    return int(counter.get_total_flops()) // 2


def _latencies(before: Backbone, after: Backbone, image_size: int) -> dict[str, dict[str, float]]:
    with _evaluating(before, after), torch.no_grad():
        return latencies(
            {
                "before": lambda images: before(torch.from_numpy(images)),
                "after": lambda images: after(torch.from_numpy(images)),
            },
            image_size,
        )


def quality(task: StagedTask, data: StagedData, device: torch.device) -> float:
    """The task's own measure of validation, as its epochs measure it."""
    order = {"seed": 0, "epoch": 0, "rank": 0, "world_size": 1}  # as validation has it: pairs are drawn by place
    batches = data.in_order("val", shuffled_batches(len(data.parts["val"]), 2 * data.batch_size, **order))
    with _evaluating(task), torch.no_grad():
        task.to(device)
        rows = [(task(batch.inputs.to(device)).float().cpu(), batch.target, batch.index) for batch in batches]
        task.to("cpu")
    outputs, target, index = (torch.cat(parts) for parts in zip(*rows, strict=True))
    if isinstance(task, SiameseTask):
        found = task.compared(outputs, target, index)
        return Roc.of_pairs(found.distance.numpy(), found.pairs[2].numpy()).auc
    return float((outputs.argmax(dim=1) == target).double().mean())


@contextmanager
def _evaluating(*networks: nn.Module) -> Iterator[None]:
    """Within, all of their layers are in eval mode, and afterwards in the mode that each was in."""
    modes = [(layer, layer.training) for network in networks for layer in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def _counts(backbone: Backbone) -> dict[str, int]:
    """The parameters of each block."""
    found = dict.fromkeys(backbone.blocks, 0)
    for name, parameter in backbone.named_parameters():
        found[block_of(backbone, name)] += parameter.numel()
    return found


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
