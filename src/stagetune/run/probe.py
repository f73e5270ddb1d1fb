"""What the untouched features are worth, measured as training begins and said beside what training makes of them."""

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from stagetune.cache.store import Store
from stagetune.cache.tables import Tables
from stagetune.config.schema import CacheConfig
from stagetune.data.datamodule import StagedData
from stagetune.errors import TrainingError
from stagetune.evaluation.pairs import evaluation_pairs
from stagetune.evaluation.probe import (
    Features,
    FloatArray,
    IntArray,
    Linear,
    best_of,
    directions,
    linear_probe,
    nearest_probe,
    regressions,
    verification_probe,
)
from stagetune.evaluation.retrieval import retrieval
from stagetune.models.heads import EmbeddingHead
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.plan import PlannedStage
from stagetune.tasks.siamese import SiameseTask, given_pairs
from stagetune.tasks.staged_task import StagedTask

MOST_FITTED = 300_000_000  # images x features x classes of a regression: up to about half a minute on one core
MOST_COMPARED = 300_000_000_000  # images x images x features: up to about a minute
OTHER_ROWS = 0.01  # of what they are at random: rows of an embedding that the probe leaves free
MEASURED = {
    "accuracy": "by logistic regression",
    "knn": "by nearest neighbours",
    "auc": "auc by cosine",
    "recall@1": "recall@1",
    "identity_accuracy": "of identities by logistic regression",
}


class Probe(Callback):
    """Measures the features that training begins with, and may let a linear head begin from what it finds.

    Those of a classifier by a logistic regression and nearest neighbours on the training images without augmentation,
    those of a siamese task by the cosine of pairs that are drawn as validation draws them, and by what is nearest.
    They come from the feature cache's tables, so that the runs of a sweep compute them once. Unless the head begins
    from it nothing of the run depends on it: random states are what they were. It travels in the checkpoint, since a
    run that goes on may no longer have the untouched features.

    Args:
        unfreezing: whose plan says what the stages train.
        data: the images.
        store: the tables of the feature cache.
        config: that of the cache; with `features: off` there is no probe.
        say: is told the outcome, or why there is none.
        begins_head: let the head begin from the probe (linear probing then fine-tuning, Kumar et al. 2022).
    """

    def __init__(
        self,
        unfreezing: StagedUnfreezing,
        data: StagedData,
        store: Store,
        config: CacheConfig,
        say: Callable[[str], None],
        *,
        begins_head: bool = False,
    ) -> None:
        self.unfreezing, self.data, self.store, self.config, self.say = unfreezing, data, store, config, say
        self.begins_head = begins_head
        self.found: dict[str, Any] = {}
        self.seconds = 0.0  # in this process

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found = state_dict["found"]

    def on_stage_start(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        if stage.index:
            return
        assert isinstance(pl_module, StagedTask)
        start = time.monotonic()
        head: dict[str, Tensor] = {}
        with isolate_rng():  # a loader draws a seed for its processes
            reason = self._reason_against(trainer)
            if reason:
                self.found = {"left_out": reason}
            else:
                self.found, head = self._measured(trainer, pl_module)
        self.seconds += time.monotonic() - start
        if self.begins_head:
            if not head:
                why = self.found.get("left_out", "there is nothing to learn it from")
                raise TrainingError(
                    f"model.head_init=probe: there is no probe to begin from: {why}; leave it at random"
                )
            self.unfreezing.go_back(pl_module, pl_module.state_dict() | head)  # an average begins with it, too
        self.say(probe_words(self.found) + ("; the head begins from the probe" if head else ""))

    def _reason_against(self, trainer: Trainer) -> str | None:
        """Why it would not be worth its time; the same in all processes."""
        if self.config.features == "off":
            return "its features would come from the cache, which is off (cache=auto)"
        plan, parts = self.unfreezing.plan, self.data.parts
        made = set()  # what the first stage has computed anyway
        if plan.stages[0].frozen_prefix == len(plan.blocks):
            is_read = parts["plain"] is parts["train"] and self.data.repeats("train")
            made = {"val", "plain"} if is_read else {"val"}
        computed = sum(len(parts[part]) for part in self._parts if part not in made)
        batches = int(trainer.num_training_batches)
        steps = sum(stage.length(lambda _: batches).steps for stage in plan.stages)
        trained = steps * self.data.train_batch_size * self.data.world_size
        is_short = steps < 2 * len(self.data.train_batches(0))  # epochs
        if is_short and computed > trained and not self.begins_head:
            return f"it would compute {computed:,} images, and training only {trained:,}"
        return None

    def _measured(self, trainer: Trainer, task: StagedTask) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What is found, and the head that begins from it, if one is asked for.

        By the process with rank 0, while the others wait for it.
        """
        depth, tables = len(self.unfreezing.plan.blocks), Tables(self.data, self.store, self.config, trainer)
        parts: dict[str, Features] = {}
        for part in self._parts:
            images, made = self.data.parts[part], tables.features(part, depth, [depth])
            if made is None:
                return {"left_out": "its features do not fit into the cache (cache.memory_gb, cache.disk_gb)"}, {}
            parts[part] = Features(made.table.float().cpu().numpy(), images.source.labels[images.indices])
        found: dict[str, Any] = {}
        head: dict[str, Tensor] = {}
        if trainer.is_global_zero:
            measure = self._verified if isinstance(task, SiameseTask) else self._classified
            try:
                found, head = measure(task, **parts)
            except ValueError as error:
                found = {"left_out": str(error)}
        return trainer.strategy.broadcast((found, head))

    def _classified(
        self, task: StagedTask, *, plain: Features, val: Features, test: Features
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        found: dict[str, Any] = {"features": plain.values.shape[1]}
        reasons = [_too_many_to_fit(plain), _too_many_to_compare(plain, val, test)]
        head: dict[str, Tensor] = {}
        if reasons[0] is None:
            numbers, model = linear_probe(plain, val, test)
            found |= numbers
            if self.begins_head:
                head = _layer("head", task.head, *model.head(len(self.data.source.classes), plain))
        if reasons[1] is None:
            found |= nearest_probe(plain, val, test)
        return found | _left_out(reasons), head

    def _verified(
        self, task: StagedTask, *, val: Features, test: Features, plain: Features | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The area under the curve of each part, over pairs drawn as validation draws them, or given ones.

        Where identities are known, also what is nearest to each image, and whose it is.
        """
        assert isinstance(task, SiameseTask)
        found: dict[str, Any] = {"features": val.values.shape[1]}
        for part, features in {"val": val, "test": test}.items():
            found[f"{part}/auc"] = verification_probe(features, *self._pairs(task, part, features))
        if plain is None:
            return found, {}
        reasons = [_too_many_to_fit(plain), _too_many_to_compare(val, val), _too_many_to_compare(test, test)]
        if not any(reasons[1:]):
            for part, features in {"val": val, "test": test}.items():
                unit = torch.from_numpy(directions(features))
                found[f"{part}/recall@1"] = retrieval(unit, torch.from_numpy(features.labels), ks=(1,))["recall@1"]
        if reasons[0] is None and set(plain.labels) & set(val.labels):
            numbers, _ = linear_probe(plain, val, test)
            found |= {key.replace("/", "/identity_"): value for key, value in numbers.items()}
        head: dict[str, Tensor] = {}
        if self.begins_head and reasons[0] is None:
            assert isinstance(task.head, EmbeddingHead)
            dimensions, pairs = task.head.dimensions, self._pairs(task, "val", val)

            def auc(model: Linear) -> float:
                weight, bias = model.embedding(dimensions, plain)
                return verification_probe(Features(val.values @ weight.T + bias, val.labels), *pairs)

            embedding = best_of(regressions(plain), auc).embedding(dimensions, plain)
            head = _layer("head.layers.0", task.head.layers[0], *embedding)
        return found | _left_out(reasons), head

    @property
    def _parts(self) -> tuple[str, ...]:
        """Those whose features are measured; a table of pairs says of these alone whether they are the same."""
        return ("plain", "val", "test") if self.data.pairs is None else ("val", "test")

    def _pairs(self, task: SiameseTask, part: str, features: Features) -> tuple[IntArray, IntArray, IntArray]:
        """Positions of both images of each pair that is measured, and whether they are the same."""
        if task.pairs is None:
            first, second = evaluation_pairs(features.labels, task.eval_pairs)
            return first, second, features.labels[first] == features.labels[second]
        given = given_pairs(task.pairs.cpu(), torch.from_numpy(self.data.parts[part].indices))
        first, second, is_same = (side.numpy() for side in given[:3])
        return first, second, is_same


def _layer(name: str, layer: nn.Module, weight: FloatArray, bias: FloatArray) -> dict[str, Tensor]:
    """The state of a linear layer that begins with these rows; what is left of its own is made small.

    Not 0: what is the same for all images would be pulled nowhere by a distance.
    """
    state = {key: OTHER_ROWS * value.detach().cpu() for key, value in layer.state_dict().items()}
    for key, rows in (("weight", weight), ("bias", bias)):
        state[key][: len(rows)] = torch.from_numpy(rows)
    return {f"{name}.{key}": value for key, value in state.items()}


def _too_many_to_fit(train: Features) -> str | None:
    (images, width), classes = train.values.shape, len(set(train.labels.tolist()))
    if images * width * classes <= MOST_FITTED:
        return None
    return f"{images:,} images x {width:,} features x {classes:,} classes are too many for its regression"


def _too_many_to_compare(known: Features, *asked: Features) -> str | None:
    (images, width), others = known.values.shape, sum(len(part.labels) for part in asked)
    if images * others * width <= MOST_COMPARED:
        return None
    return f"{images:,} images x {others:,} images x {width:,} features are too many for what is nearest"


def _left_out(reasons: list[str | None]) -> dict[str, str]:
    said = [reason for reason in reasons if reason]
    return {"left_out": "; ".join(said)} if said else {}


def probe_words(found: dict[str, Any]) -> str:
    """What was found, and why something was not, in a line."""
    said = []
    if keys := [key for key in MEASURED if f"test/{key}" in found]:
        tested = ", ".join(f"{found[f'test/{key}']:.4f} {MEASURED[key]}" for key in keys)
        validated = ", ".join(f"{found[f'val/{key}']:.4f}" for key in keys)
        unfinished = "" if found.get("converged", True) else "; the regression did not converge"
        said.append(f"{tested} on the untouched features (val {validated}{unfinished})")
    if "left_out" in found:
        said.append(f"left out: {found['left_out']}")
    return "; ".join(said)
