"""One label per image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagetune.config.schema import Config
from stagetune.config.settings import LossSettings, TaskSettings
from stagetune.typed import choice, number

if TYPE_CHECKING:
    from stagetune.data.source import Pairs
    from stagetune.models.backbone import Backbone
    from stagetune.tasks.classification import ClassificationTask


@dataclass
class Settings(TaskSettings):
    """`task=classifier`."""

    name: str = "classifier"
    monitor: str = "val/accuracy"
    head: str = choice("linear", "hidden")
    hidden: int = number(1024, 1)
    dropout: float = number(0.0, 0, 0.99)
    unknown: float = number(0.05, 0, 0.9)

    metrics = ("val/loss", "val/accuracy", "val/balanced_accuracy", "val/top5", "val/f1")
    told = ("task", "num_classes")
    names_classes = True

    def problems(self, config: Config) -> Iterator[str]:
        for key in ("hidden", "dropout"):
            if self.head == "linear" and self.differs(key):
                yield f"task.{key}={getattr(self, key)}: has no effect with task.head=linear; add task.head=hidden"
        data = config.data
        if not data.has_identities:
            yield f"data={data.name}: task=classifier needs classes, which pairs do not have; use task=siamese"
        elif data.split == "identities":
            remedy = "use data.split=images or task=siamese"
            yield f"data.split=identities: a classifier cannot name unseen classes; {remedy}"

    def build(
        self,
        loss: LossSettings,
        backbone: "Backbone",
        classes: int,
        pairs: "Pairs | None",
        metrics: Mapping[str, Mapping[str, Any]],
        **shared: Any,
    ) -> "ClassificationTask":
        from stagetune.models.heads import hidden_head, linear_head
        from stagetune.tasks.classification import ClassificationTask
        from stagetune.tasks.metrics import own_metrics

        if self.head == "linear":
            head = linear_head(backbone.out_features, classes)
        else:
            head = hidden_head(backbone.out_features, classes, hidden=self.hidden, dropout=self.dropout)
        own, cost = own_metrics(metrics, task="multiclass", num_classes=classes), loss.build(classes, classes)
        return ClassificationTask(backbone, head, cost, classes=classes, lost=self.unknown, metrics=own, **shared)
