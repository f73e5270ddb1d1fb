"""The network as training begins with it."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from stagetune.artifacts import CheckpointMetadata
from stagetune.config.schema import Config
from stagetune.data.datamodule import StagedData
from stagetune.errors import WeightsError
from stagetune.models.cut import rebuild
from stagetune.models.weights import Weights, load_head, load_into
from stagetune.run.build import build_task
from stagetune.run.data import check_unseen, loss_of, metadata_of
from stagetune.run.pretrained import check_normalisation
from stagetune.run.resume import metadata_after
from stagetune.tasks.staged_task import StagedTask


def first_task(
    config: Config, data: StagedData, weights: Weights | None, last: Mapping[str, Any] | None
) -> StagedTask:
    """Backbone and head as training begins with them; of a run that goes on the checkpoint has the weights."""
    size = config.input().size
    backbone = config.model.build(size)
    if weights is not None:
        try:
            rebuild(backbone, weights.pruning, size)
        except WeightsError as error:
            raise WeightsError(f"the weights {weights.used}: {error}") from error
        check_unseen(data, weights, config.data.split)
        check_normalisation(config.model, weights)
        loaded = load_into(backbone, weights)
        loaded = replace(loaded, used=f"{loaded.used}, with its head") if config.model.head == "keep" else loaded
        metadata = metadata_of(config, data, loaded)
    else:
        assert last is not None
        metadata = metadata_after(CheckpointMetadata.of(last), config, data)
        rebuild(backbone, metadata.pruning, size)
    classes = data.source.classes
    weighed = replace(config, loss=loss_of(config, data))
    task = build_task(weighed, backbone, len(classes), metadata, data.pairs, config.metrics)
    if weights is not None and config.model.head == "keep":
        load_head(task.head, weights, classes if config.task.names_classes else None)
    return task


def figures_of(task: StagedTask) -> dict[str, Any]:
    """What was measured as the task's backbone was pruned; an edited checkpoint may lack it."""
    found = task.metadata.pruning[-1].get("figures") if task.metadata.pruning else None
    if not isinstance(found, dict):
        raise WeightsError("the checkpoint that the run goes on from does not say what was pruned; start a new run")
    return deepcopy(found)
