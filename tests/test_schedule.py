"""What each stage opens and at which rate, frozen blocks that do not move, and every parameter in one group."""

import itertools
from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from stagetune.config.compose import load
from stagetune.config.schema import Config, ScheduleConfig, StageConfig
from stagetune.data.datamodule import StagedData
from stagetune.errors import ScheduleError
from stagetune.models.backbone import Backbone, build_backbone
from stagetune.models.heads import linear_head
from stagetune.run.build import build_data
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.freezing import describe, open_only
from stagetune.schedule.param_groups import check_groups, param_groups
from stagetune.schedule.plan import Plan, lr_factor, make_plan
from stagetune.schedule.table import plan_table, plan_text
from stagetune.tasks.classification import ClassificationTask

BLOCKS = ("stem", "layer1", "layer2", "layer3", "layer4")


def task(arch: str = "resnet18", classes: int = 10) -> ClassificationTask:
    torch.manual_seed(0)
    backbone = build_backbone(arch)
    optimizer = lambda groups: torch.optim.AdamW(groups, lr=0.0, weight_decay=0.05)  # noqa: E731
    head = linear_head(backbone.out_features, classes)
    return ClassificationTask(backbone, head, nn.CrossEntropyLoss(), classes=classes, make_optimizer=optimizer)


def staged(**changes: int) -> ScheduleConfig:
    return ScheduleConfig(
        "staged",
        [
            StageConfig("head", ["head"], 1, 1e-3),
            StageConfig("layer4", ["layer4"], 2, 1e-3, 0.5),
            StageConfig("all", ["all"], 1, 1e-4, 0.1, "cosine"),
        ],
    )


def fit(module: ClassificationTask, plan: Plan, data: StagedData, *more: object, **settings: object) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_epochs=plan.epochs, callbacks=[StagedUnfreezing(plan), *more], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, **{"limit_train_batches": 3, "limit_val_batches": 1, **settings},
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return trainer


@pytest.fixture
def data(tiny: Callable[..., Config]) -> StagedData:
    return build_data(tiny())


def test_the_shipped_schedules_on_resnet50_are_exactly_this() -> None:
    model = describe(task("resnet50"))
    expected = {
        "head_only": [("head", 0, 8, "head", 20490, {"head": 1e-3})],
        "full": [
            (
                "all", 0, 8, "stem layer1 layer2 layer3 layer4 head", 23528522,
                dict.fromkeys((*BLOCKS, "head"), 3e-4),
            ),
        ],
        "staged": [
            ("head", 0, 2, "head", 20490, {"head": 1e-3}),
            ("layer4", 2, 3, "layer4 head", 14985226, {"head": 1e-3, "layer4": 5e-4}),
            (
                "all", 5, 4, "stem layer1 layer2 layer3 layer4 head", 23528522,
                {
                    "head": 5e-4, "layer4": 3.5e-4, "layer3": 2.45e-4,
                    "layer2": 1.715e-4, "layer1": 1.2005e-4, "stem": 8.4035e-5,
                },
            ),
        ],
    }  # fmt: skip
    for name, stages in expected.items():
        plan = make_plan(load([f"schedule={name}"]).schedule, model)
        assert len(plan.stages) == len(stages)
        for stage, (label, start, epochs, opened, trainable, rates) in zip(plan.stages, stages, strict=True):
            assert (stage.name, stage.start_epoch, stage.epochs) == (label, start, epochs)
            assert stage.open_blocks == tuple(opened.split())
            assert stage.trainable_parameters == trainable
            for group, rate in stage.rates.items():
                block = group.removeprefix("backbone.").removesuffix("/no_decay")
                assert rate == pytest.approx(rates.get(block, 0.0)), (name, label, group)


def test_the_plan_says_which_stage_an_epoch_belongs_to() -> None:
    plan = make_plan(staged(), describe(task()))
    assert [plan.at(epoch).name for epoch in range(5)] == ["head", "layer4", "layer4", "all", "all"]
    assert [stage.frozen_prefix for stage in plan.stages] == [5, 4, 0]
    assert plan.fingerprint() == make_plan(staged(), describe(task())).fingerprint()
    other = staged()
    other.stages[1].lr = 2e-3
    assert plan.fingerprint() != make_plan(other, describe(task())).fingerprint()


def test_the_shapes_of_a_rate_over_a_stage() -> None:
    assert [lr_factor("constant", 4, step) for step in range(5)] == [1, 1, 1, 1, 1]
    assert [lr_factor("linear", 4, step) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert [round(lr_factor("cosine", 4, step), 3) for step in range(5)] == [1, 0.854, 0.5, 0.146, 0]


def test_the_table_says_what_is_open() -> None:
    lines = plan_table(make_plan(staged(), describe(task()))).splitlines()
    assert lines[0].split() == ["stage", "epochs", "open", "trainable", "learning", "rate"]
    assert lines[2].split("  ")[0] == "layer4"
    assert "layer4, head" in lines[2]
    assert "5.0e-04 to 1.0e-03" in lines[2]
    assert "everything" in lines[3]
    assert "frozen" in plan_text(make_plan(staged(), describe(task())))


def test_a_block_that_the_model_lacks_is_an_error() -> None:
    schedule = ScheduleConfig("mine", [StageConfig("first", ["layer9"])])
    with pytest.raises(ScheduleError) as caught:
        make_plan(schedule, describe(task()))
    assert str(caught.value) == ("stage first opens layer9, but this model has no such block; did you mean layer4?")
    with pytest.raises(ScheduleError, match="stage again of schedule mine unfreezes nothing; name a block"):
        make_plan(
            ScheduleConfig("mine", [StageConfig("a", ["head"]), StageConfig("again", ["head"])]), describe(task())
        )


def test_every_parameter_is_in_exactly_one_named_group() -> None:
    """Lightning's BackboneFinetuning tests membership by value: 18 of 156 tensors never reach its optimizer."""
    module = task("resnet50")
    groups = param_groups(module)
    names = [group["name"] for group in groups]
    assert names == [
        *itertools.chain.from_iterable((f"backbone.{block}", f"backbone.{block}/no_decay") for block in BLOCKS),
        "head",
        "head/no_decay",
    ]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held)) == len(list(module.parameters()))
    assert set(held) == {id(parameter) for parameter in module.parameters()}
    for group in groups:
        assert all((parameter.ndim <= 1) == group["name"].endswith("/no_decay") for parameter in group["params"])
        assert group.get("weight_decay") == (0.0 if group["name"].endswith("/no_decay") else None)


def test_a_parameter_that_no_group_holds_is_an_error() -> None:
    module = task()
    plan = make_plan(staged(), describe(module))
    check_groups(module, param_groups(module), plan)
    remedy = "build the optimizer from stagetune.schedule.param_groups.param_groups(module)"

    with pytest.raises(ScheduleError) as caught:
        check_groups(module, param_groups(module)[:-1], plan)
    assert str(caught.value) == (
        f"1 parameters are in no optimizer group and would never be trained, such as head.bias; {remedy}"
    )
    twice = param_groups(module)
    twice[0]["params"] = [*twice[0]["params"], module.head.bias]
    with pytest.raises(ScheduleError) as caught:
        check_groups(module, twice, plan)
    assert str(caught.value) == (
        f"parameter head.bias stands in two optimizer groups, backbone.stem and head/no_decay; {remedy}"
    )
    unnamed = [{"params": list(module.parameters())}]
    with pytest.raises(
        ScheduleError, match=r"the optimizer's groups are \(no name\), but the plan has backbone\.stem"
    ):
        check_groups(module, unnamed, plan)


def test_frozen_blocks_do_not_change_by_a_single_bit(data: StagedData) -> None:
    """Their BatchNorm included, which Lightning's BaseFinetuning goes on training (PL #15062)."""
    module = task()
    before = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    plan = make_plan(
        ScheduleConfig("s", [StageConfig("a", ["head"], 1), StageConfig("b", ["layer4"], 1)]), describe(module)
    )
    fit(module, plan, data)
    for name, value in module.backbone.state_dict().items():
        if name.startswith("layer4"):
            assert not torch.equal(value, before[name]) or "num_batches" in name, name
        else:
            assert torch.equal(value, before[name]), name


def test_frozen_blocks_stay_in_eval_mode_whatever_calls_train() -> None:
    module = task()
    open_only(module, ("layer4", "head"))
    for call in (module.train, module.backbone.train, module.backbone.layer1.train, lambda: module.eval().train()):
        call()
        assert module.training
        assert module.head.training
        assert module.backbone.layer4.training
        for frozen in ("conv1", "bn1", "layer1", "layer2", "layer3"):
            assert not any(layer.training for layer in module.backbone.get_submodule(frozen).modules()), frozen
    open_only(module, (*BLOCKS, "head"))
    assert all(layer.training for layer in module.backbone.modules())
    open_only(module, ("head",))
    module.train()
    assert not module.backbone.layer4.training


def test_a_frozen_prefix_keeps_nothing_for_backward() -> None:
    """Lightning's frozen phase keeps 209.6 of 210.5 MiB: its BatchNorm still asks for gradients."""
    module = task("resnet50")
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    kept: dict[str, int] = {}
    for name, opened in (("head", ("head",)), ("all", (*BLOCKS, "head"))):
        open_only(module, opened)
        seen: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: seen.setdefault(t.untyped_storage().data_ptr(), t.numel() * t.element_size()) and t, lambda t: t  # noqa: B023
        ):  # fmt: skip
            module(images)
        kept[name] = sum(seen.values())
    assert kept["head"] < 2**20
    assert kept["all"] > 30 * 2**20


class Watch(StagedUnfreezing):
    """Notes trainable set, rates and modes at the first batch of each epoch."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.seen: list[tuple[int, set[str], dict[str, float], set[str]]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: ClassificationTask, batch: object, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            trainable = {name for name, p in pl_module.named_parameters() if p.requires_grad}
            rates = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
            blocks = pl_module.backbone.blocks.items()
            training = {b for b, layers in blocks if pl_module.backbone.get_submodule(layers[0]).training}
            self.seen.append((trainer.current_epoch, trainable, rates, training))


def test_each_epoch_trains_what_the_plan_says_at_the_plans_rates(data: StagedData) -> None:
    module = task()
    plan = make_plan(staged(), describe(module))
    watch = Watch(plan)
    trainer = Trainer(
        accelerator="cpu", max_epochs=plan.epochs, callbacks=[watch], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_train_batches=2, limit_val_batches=1,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    described = describe(module).parameters
    for epoch, trainable, rates, training in watch.seen:
        stage = plan.at(epoch)
        assert trainable == {p.name for p in described if p.block in stage.open_blocks}
        assert rates == pytest.approx(dict(stage.rates))
        assert training == set(stage.open_blocks) - {"head"}
    assert len(watch.seen) == 4
    final = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert final == pytest.approx(dict.fromkeys(final, 0.0))  # the cosine has come down, in every group


def test_an_own_backbone_needs_only_named_blocks() -> None:
    layers = {"a": nn.Conv2d(3, 4, 3), "b": nn.BatchNorm2d(4)}
    module = nn.Module()
    module.backbone = Backbone(layers, {"low": ["a"], "high": ["b"]}, out_features=4)
    module.head = nn.Linear(4, 2)
    plan = make_plan(ScheduleConfig("s", [StageConfig("x", ["high", "head"], 1, 1.0, 0.5)]), describe(module))
    assert plan.stages[0].rates == {
        "backbone.low": 0.0, "backbone.low/no_decay": 0.0, "backbone.high/no_decay": 0.5,
        "head": 1.0, "head/no_decay": 1.0,
    }  # fmt: skip
