"""What each stage opens and at which rate, frozen blocks that do not move, and every parameter in one group."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from programs import Sampled
from stagetune.config.schema import Config
from stagetune.data.datamodule import StagedData
from stagetune.errors import ScheduleError
from stagetune.models.backbones import resnet
from stagetune.models.heads import linear_head
from stagetune.models.layers import Layers
from stagetune.run.data import build_data
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.freezing import Freezing
from stagetune.schedule.groups import regroup, set_rates, settings_of
from stagetune.schedule.network import describe, network_of
from stagetune.schedule.plan import Plan, PlannedStage
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.selectors import select, select_all
from stagetune.schedule.spec import Schedule, Stage
from stagetune.schedule.table import plan_table, plan_text
from stagetune.tasks.classification import ClassificationTask

BLOCKS = ("stem", "layer1", "layer2", "layer3", "layer4")


def task(arch: str = "resnet18", classes: int = 10) -> ClassificationTask:
    torch.manual_seed(0)
    backbone = resnet.Settings(arch=arch).build(64)
    optimizer = lambda groups: torch.optim.AdamW(groups, lr=0.0, weight_decay=0.05)  # noqa: E731
    head = linear_head(backbone.out_features, classes)
    return ClassificationTask(backbone, head, nn.CrossEntropyLoss(), classes=classes, make_optimizer=optimizer)


def schedule(*stages: Stage, leave_frozen: bool = True) -> Schedule:
    return Schedule("mine", leave_frozen, list(stages))


def stages_by_epoch(plan: Plan) -> list[PlannedStage]:
    return [stage for stage in plan.stages for _ in range(stage.epochs or 0)]


def staged() -> Schedule:
    return schedule(
        Stage("head", ["head"], lr=1e-3),
        Stage("layer4", ["layer4"], epochs=2, lr=1e-3, lr_decay=0.5),
        Stage("all", ["all"], lr=1e-4, lr_decay=0.1, lr_scheduler="cosine"),
    )


def fit(module: LightningModule, chosen: Schedule, data: StagedData, *more: object, **settings: object) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_epochs=-1, callbacks=[StagedUnfreezing(chosen), *more], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, **{"limit_train_batches": 3, "limit_val_batches": 1, **settings},
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return trainer


@pytest.fixture
def data(tiny: Callable[..., Config]) -> StagedData:
    return build_data(tiny())


def test_the_plan_says_which_stage_an_epoch_belongs_to() -> None:
    plan = make_plan(staged(), describe(task()))
    assert [stage.name for stage in stages_by_epoch(plan)] == ["head", "layer4", "layer4", "all"]
    assert [stage.start_epoch for stage in plan.stages] == [0, 1, 3]
    assert [stage.frozen_prefix for stage in plan.stages] == [5, 4, 0]
    assert plan == make_plan(staged(), describe(task()))
    other = staged()
    other.stages[1].lr = 2e-3
    assert plan != make_plan(other, describe(task()))


@pytest.mark.parametrize(
    ("shape", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", 0, [1, 0.854, 0.5, 0.146, 0]),
        ("constant", 1, [0.333, 0.667, 1, 1, 1]),
        ("linear", 1, [0.333, 0.667, 1, 0.5, 0]),
    ],
)
def test_the_shapes_of_a_rate_over_a_stage_of_four_steps(shape: str, warmup: float, expected: list[float]) -> None:
    config = Stage("s", ["all"], epochs=2, lr=1.0, lr_scheduler=shape, warmup=warmup)
    (stage,) = make_plan(schedule(config), describe(task())).stages
    assert [round(stage.lr_factor(stage.length(lambda _: 2), [], step), 3) for step in range(5)] == expected


def test_the_table_says_what_is_open() -> None:
    lines = plan_table(make_plan(staged(), describe(task()))).splitlines()
    assert lines[0].split() == ["stage", "epochs", "open", "trainable", "learning", "rate"]
    assert lines[2].split("  ")[0] == "layer4"
    assert "layer4, head" in lines[2]
    assert "5.0e-04 to 1.0e-03" in lines[2]
    assert "everything" in lines[3]
    assert "frozen" in plan_text(make_plan(staged(), describe(task())))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [Stage("first", ["layer9"], lr=1.0)],
            "stage first: this model has no block layer9; did you mean layer4?",
        ),
        (
            [Stage("a", ["head"], lr=1.0), Stage("again", ["head"], lr=1.0)],
            "stage again of schedule mine unfreezes nothing, it is all open already; "
            "name what is still frozen, or leave open out",
        ),
        (
            [Stage("a", [{"match": "layer4.*.convv1"}], lr=1.0)],
            "stage a: match: layer4.*.convv1 matches nothing; did you mean layer4.1.conv1?",
        ),
        (
            [Stage("a", [{"mach": "x"}], lr=1.0)],
            "stage a: no selector named mach; did you mean match?",
        ),
        (
            [Stage("a", [{"last": 0}], lr=1.0)],
            "stage a: last: 0 cannot be understood (give a count of at least 1)",
        ),
        (
            [Stage("a", ["all"], freeze=["layer1"], lr=1.0)],
            "stage a opens and freezes backbone.layer1.0.bn1.bias; leave one of the two out",
        ),
        (
            [Stage("a", ["head"], lr=1.0), Stage("b", freeze=["head"], lr=1.0)],
            "stage b of schedule mine trains nothing; let it open a block",
        ),
        (
            [Stage("a", ["head", "layer4"], lrs={"head": 0.1})],
            "stage a: gives backbone.layer4.0.conv1.weight no learning rate; add lr, lr_range, or a key to lrs",
        ),
        (
            [Stage("a", ["head"], lrs={"haed": 0.1})],
            "stage a: match: haed matches nothing; did you mean head?",
        ),
        (
            [Stage("a", [{"match": "head"}], lr=0.1)],
            "stage a: match: head matches nothing; globs are on names within the backbone; name the head, or say "
            "params: head",
        ),
        (
            [Stage("a", [{"match": "backbone.layer4.*"}], lr=0.1)],
            "stage a: match: backbone.layer4.* matches nothing; globs are on names within the backbone: layer4.*",
        ),
        (
            [Stage("a", [{"params": [r"layer[34]\..*bias", "backbone.conv1.*"]}], lr=0.1)],
            r"stage a: params: layer[34]\..*bias matches nothing; names are whole here: backbone\.layer[34]\..*bias",
        ),
        (
            [Stage("a", ["head"], lr=0.1, lr_range=[0.1, 0.2])],
            "stage a: gives both lr and lr_range; leave one of them out",
        ),
        (
            [Stage("a", ["head"], lr_range=[0.1])],
            "stage a: lr_range: [0.1] is no range; give [lowest, highest], both greater than 0",
        ),
        ([], "schedule mine has no stages; list at least one"),
    ],
)
def test_what_a_model_cannot_do_is_said_with_the_nearest_name(stages: list[Stage], message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        make_plan(schedule(*stages), describe(task()))
    assert str(caught.value) == message


def test_a_parameter_that_no_stage_opens_must_be_meant_so() -> None:
    with pytest.raises(ScheduleError) as caught:
        make_plan(schedule(Stage("a", ["head"], lr=1.0), leave_frozen=False), describe(task()))
    assert str(caught.value) == (
        "schedule mine never opens 60 parameters, such as backbone.conv1.weight; "
        "open them in a stage, or say leave_frozen: true"
    )


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("layer4", 15),
        ("all", 62),
        ("head", 2),
        ({"last": 1}, 2),
        ({"last": 3}, 5),  # bn1, conv2, bn2 of layer4.1: one parameter in a convolution, two in a norm
        ({"fraction": 1.0}, 60),
        ({"index": "0:2"}, 3),
        ({"index": ["0", "-1"]}, 3),
        ({"index": "0%:50%"}, 30),
        ({"match": "layer4.1"}, 6),
        ({"match": ["*.bn1", "layer4.1"]}, 16 - 2 + 6),
        ({"match": "layer1.*.weight"}, 8),
        ({"params": r"backbone\.layer[34]\.\d\.conv"}, 8),
        ({"params": ["backbone.conv1.weight"]}, 1),
    ],
)  # fmt: skip
def test_a_selector_names_exactly_so_many_parameters(selector: Any, expected: int) -> None:
    names = select(selector, describe(task()))
    assert len(names) == expected
    assert names <= {p.name for p in describe(task()).parameters}


def test_the_last_layers_are_the_last_in_forward_order() -> None:
    assert select({"last": 2}, describe(task())) == {
        "backbone.layer4.1.conv2.weight", "backbone.layer4.1.bn2.weight", "backbone.layer4.1.bn2.bias",
    }  # fmt: skip


def test_rates_by_block_glob_and_range_of_layers() -> None:
    config = Stage("s", ["all"], lr=1.0, lr_decay=0.5, lrs={"*.bn1": 7.0, "layer4": 5.0, "0%:25%": 3.0})
    plan = make_plan(schedule(config), describe(task()))
    rate = {name: plan.stages[0].rates[group.name] for group in plan.groups for name in group.parameters}
    assert rate["backbone.layer4.0.bn1.weight"] == 7.0  # the first key that names it
    assert rate["backbone.layer4.0.conv1.weight"] == 5.0
    assert rate["backbone.conv1.weight"] == 3.0
    assert rate["backbone.layer3.1.conv2.weight"] == 0.25
    assert rate["head.weight"] == 1.0
    names = [group.name for group in plan.groups if group.block == "layer3"]
    assert names == [
        "backbone.layer3.part1", "backbone.layer3.part1/no_decay", "backbone.layer3.part2/no_decay",
    ]  # fmt: skip


def test_a_range_of_rates_is_spread_in_ratio_over_the_open_blocks() -> None:
    config = Stage("s", ["layer3", "layer4", "head"], lr_range=[1e-5, 1e-3])
    (stage,) = make_plan(schedule(config), describe(task())).stages
    found = {name: rate for name, rate in stage.rates.items() if rate and "no_decay" not in name}
    assert found == pytest.approx({"backbone.layer3": 1e-5, "backbone.layer4": 1e-4, "head": 1e-3})


def test_every_parameter_is_in_exactly_one_named_group() -> None:
    """Lightning's BackboneFinetuning tests membership by value: 18 of 156 tensors never reach its optimizer."""
    module = task("resnet50")
    optimizer = module.configure_optimizers()
    regroup(optimizer, network_of(module), make_plan(staged(), describe(module)))
    groups = optimizer.param_groups
    assert [group["name"] for group in groups] == [
        *itertools.chain.from_iterable((f"backbone.{block}", f"backbone.{block}/no_decay") for block in BLOCKS),
        "head",
        "head/no_decay",
    ]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held)) == len(list(module.parameters()))
    assert set(held) == {id(parameter) for parameter in module.parameters()}
    for group in groups:
        alone = group["name"].endswith("/no_decay")
        assert all((parameter.ndim <= 1) == alone for parameter in group["params"])
        assert group["weight_decay"] == (0.0 if alone else 0.05)


def test_a_parameter_that_no_group_holds_is_an_error() -> None:
    module = task()
    optimizer = torch.optim.AdamW(list(module.parameters())[:-1])
    with pytest.raises(ScheduleError) as caught:
        regroup(optimizer, network_of(module), make_plan(staged(), describe(module)))
    assert str(caught.value) == (
        "1 parameters are in no optimizer group and would never be trained, such as head.bias; "
        "give the optimizer all of the module's parameters, the stages decide which are trained"
    )


def test_somebodys_own_groups_keep_their_settings() -> None:
    module = task()
    own = [
        {"params": list(module.backbone.parameters()), "weight_decay": 0.3, "betas": (0.8, 0.9)},
        {"params": list(module.head.parameters()), "weight_decay": 0.1},
    ]
    optimizer = torch.optim.AdamW(own, lr=1.0)
    plan = make_plan(staged(), describe(module))
    regroup(optimizer, network_of(module), plan)
    set_rates(optimizer, settings_of(optimizer), plan.stages[1])
    by_name = {group["name"]: group for group in optimizer.param_groups}
    assert by_name["backbone.layer4/no_decay"]["weight_decay"] == 0.3
    assert by_name["backbone.layer4"]["betas"] == (0.8, 0.9)
    assert (by_name["head"]["weight_decay"], by_name["head"]["betas"]) == (0.1, (0.9, 0.999))
    assert (by_name["head"]["lr"], by_name["backbone.layer4"]["lr"], by_name["backbone.stem"]["lr"]) == (
        1e-3,
        5e-4,
        0,
    )


def test_a_stage_may_set_the_weight_decay_and_the_next_has_the_optimizers_own_again() -> None:
    module = task()
    optimizer = module.configure_optimizers()
    changed = schedule(Stage("a", ["all"], lr=1.0, weight_decay=0.7), Stage("b", lr=1.0))
    plan = make_plan(changed, describe(module))
    regroup(optimizer, network_of(module), plan)
    given = settings_of(optimizer)
    for stage, expected in zip(plan.stages, (0.7, 0.05), strict=True):
        set_rates(optimizer, given, stage)
        for group in optimizer.param_groups:
            assert group["weight_decay"] == (0.0 if group["name"].endswith("/no_decay") else expected)


@pytest.mark.slow
def test_frozen_blocks_do_not_change_by_a_single_bit(data: StagedData) -> None:
    """Their BatchNorm included, which Lightning's BaseFinetuning goes on training (PL #15062)."""
    module = task()
    before = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    fit(module, schedule(Stage("a", ["head"], lr=1e-3), Stage("b", ["layer4"], lr=1e-3)), data)
    for name, value in module.backbone.state_dict().items():
        if name.startswith("layer4"):
            assert not torch.equal(value, before[name]) or "num_batches" in name, name
        else:
            assert torch.equal(value, before[name]), name


def test_frozen_blocks_stay_in_eval_mode_whatever_calls_train() -> None:
    module = task()
    freezing, model = Freezing(network_of(module)), describe(module)
    freezing.open_only(select_all(["layer4", "head"], model))
    for call in (module.train, module.backbone.train, module.backbone.layer1.train, lambda: module.eval().train()):
        call()
        assert module.training
        assert module.head.training
        assert module.backbone.layer4.training
        for frozen in ("conv1", "bn1", "layer1", "layer2", "layer3"):
            assert not any(layer.training for layer in module.backbone.get_submodule(frozen).modules()), frozen
    freezing.open_only(select("all", model))
    assert all(layer.training for layer in module.backbone.modules())
    freezing.open_only(select("head", model))
    module.train()
    assert not module.backbone.layer4.training


def test_in_a_block_that_is_open_in_part_only_the_open_layers_train() -> None:
    module = task()
    Freezing(network_of(module)).open_only(select_all([{"last": 1}, "head"], describe(module)))
    block = module.backbone.layer4[1]
    for _ in range(2):
        assert (block.bn2.training, block.bn1.training, block.conv2.training) == (True, False, False)
        assert not module.backbone.layer4[0].bn1.training
        module.train()


def test_batch_norm_may_be_kept_frozen_or_made_to_train_everywhere() -> None:
    module = task()
    freezing, model = Freezing(network_of(module)), describe(module)
    norms = [layer for layer in module.backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    (stage,) = make_plan(schedule(Stage("s", ["all"], lr=1.0, batch_norm="frozen")), model).stages
    freezing.open_only(set(stage.open), stage.batch_norm)
    module.train()
    assert not any(layer.training or layer.weight.requires_grad or layer.bias.requires_grad for layer in norms)
    assert module.backbone.conv1.weight.requires_grad
    (stage,) = make_plan(schedule(Stage("s", ["head"], lr=1.0, batch_norm="train")), model).stages
    assert stage.frozen_prefix == 0
    freezing.open_only(set(stage.open), stage.batch_norm)
    module.train()
    assert all(layer.training and layer.weight.requires_grad for layer in norms)
    assert not module.backbone.conv1.weight.requires_grad


def test_a_frozen_prefix_keeps_nothing_for_backward() -> None:
    """Lightning's frozen phase keeps 209.6 of 210.5 MiB: its BatchNorm still asks for gradients."""
    module = task("resnet50")
    freezing, model = Freezing(network_of(module)), describe(module)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    kept: dict[str, int] = {}
    for name in ("head", "all"):
        freezing.open_only(select(name, model))
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

    def __init__(self, chosen: Schedule) -> None:
        super().__init__(chosen)
        self.seen: list[tuple[PlannedStage, set[str], dict[str, float], set[str]]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: ClassificationTask, batch: object, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            trainable = {name for name, p in pl_module.named_parameters() if p.requires_grad}
            rates = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
            training = {name for name, layer in pl_module.backbone.named_modules() if layer.training}
            self.seen.append((self.stage, trainable, rates, training))


@pytest.mark.slow
def test_each_epoch_trains_what_the_plan_says_at_the_plans_rates(data: StagedData) -> None:
    module = task()
    watch = Watch(staged())
    trainer = Trainer(
        accelerator="cpu", max_epochs=-1, callbacks=[watch], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_train_batches=2, limit_val_batches=1,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    described = describe(module).parameters
    for stage, trainable, rates, training in watch.seen:
        assert trainable == set(stage.open) == {p.name for p in described if p.block in stage.open_blocks}
        assert rates == pytest.approx(dict(stage.rates))
        first = {block: layers[0] for block, layers in module.backbone.blocks.items()}
        assert {block for block in first if first[block] in training} == set(stage.open_blocks) - {"head"}
    assert [stage.name for stage, *_ in watch.seen] == ["head", "layer4", "layer4", "all"]
    final = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert final == pytest.approx(dict.fromkeys(final, 0.0))  # the cosine has come down, in every group


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_a_stage_may_begin_with_a_fresh_optimizer(kept: bool, data: StagedData) -> None:
    module = task()
    second = Stage("b", ["layer4"], lr=1e-3, optimizer_state="keep" if kept else "reset")
    trainer = fit(module, schedule(Stage("a", ["head"], lr=1e-3), second), data)
    state = trainer.optimizers[0].state
    assert int(state[module.head.weight]["step"]) == (6 if kept else 3)
    assert int(state[module.backbone.layer4[0].conv1.weight]["step"]) == 3
    assert module.backbone.conv1.weight not in state


class Small(LightningModule):
    """Three blocks with BatchNorm under a head, for schedules drawn at random."""

    def __init__(self) -> None:
        super().__init__()
        block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 1), nn.BatchNorm2d(o), nn.Dropout(0.1))  # noqa: E731
        self.backbone = Layers(
            {"a": block(3, 2), "b": block(2, 3), "c": block(3, 2)},
            {"a": ["a"], "b": ["b"], "c": ["c"]},
        )
        self.head = nn.Linear(2, 2)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.head(self.backbone(batch)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0, weight_decay=0.01)


selectors = st.lists(
    st.sampled_from(["a", "b", "c", "head", {"last": 2}, {"match": "b.1"}, {"index": "0:3"}, {"params": ".*bias"}]),
    max_size=2,
)
random_stages = st.lists(
    st.builds(
        Stage,
        name=st.uuids().map(str),
        open=selectors,
        freeze=selectors,
        epochs=st.integers(1, 2),
        lr=st.sampled_from([1e-3, 0.1]),
        lr_decay=st.sampled_from([0.5, 1.0]),
        batch_norm=st.sampled_from(["auto", "frozen", "train"]),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.slow
@given(stages=random_stages)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_any_schedule_does_in_each_epoch_what_its_plan_says(stages: list[Stage]) -> None:
    module = Small()
    try:
        plan = make_plan(schedule(*stages), describe(module))
    except ScheduleError:
        assume(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    watch = Watch(schedule(*stages))
    images = torch.randint(0, 256, (8, 3, 2, 2), dtype=torch.uint8)
    trainer = Trainer(
        accelerator="cpu", max_epochs=-1, callbacks=[watch], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, Sampled(images, 4))
    assert [seen[0] for seen in watch.seen] == stages_by_epoch(plan)
    for stage, trainable, rates, _ in watch.seen:
        assert trainable == set(stage.open)
        assert rates == pytest.approx(dict(stage.rates))
    held = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in module.parameters()}
    assert len(held) == len(list(module.parameters()))
    ever = {name for stage in plan.stages for name in stage.open}
    for name, value in module.named_parameters():
        if name not in ever:
            assert torch.equal(value, before[name]), name
    for stage, *_, training in watch.seen:
        for block in ("a", "b", "c"):
            own_open = any(name.startswith(f"backbone.{block}.1.") for name in stage.open)
            assert (f"{block}.1" in training) == (own_open and stage.batch_norm != "frozen")
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(layer.training for layer in module.modules())


def test_an_own_backbone_needs_only_named_blocks() -> None:
    layers = {"a": nn.Conv2d(3, 4, 3), "b": nn.BatchNorm2d(4)}
    module = nn.Module()
    module.backbone = Layers(layers, {"low": ["a"], "high": ["b"]})
    module.head = nn.Linear(4, 2)
    plan = make_plan(schedule(Stage("x", ["high", "head"], lr=1.0, lr_decay=0.5)), describe(module))
    assert plan.stages[0].rates == {
        "backbone.low": 0.0, "backbone.low/no_decay": 0.0, "backbone.high/no_decay": 0.5,
        "head": 1.0, "head/no_decay": 1.0,
    }  # fmt: skip
