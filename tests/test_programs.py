"""The callback in somebody's own program: by identity, whatever things are called, and nothing stays of it."""

import copy
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD
from torchmetrics import MeanMetric

from commands import start
from programs import QUIET, Program, assert_equal, fit, loader, loop, unfreezing_of
from stagetune.errors import ScheduleError
from stagetune.schedule.network import describe, network_of
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.spec import Schedule, Stage

HEAD_THEN_ALL = [Stage("head", ["head"], lr=0.1), Stage("all", ["all"], epochs=2, lr=0.1, lr_decay=0.5)]


def plan_of(module: nn.Module, *stages: Stage, **settings: Any) -> Any:
    return make_plan(Schedule(stages=list(stages), leave_frozen=True), describe(module, **settings))


class OwnHead(Program):
    """A backbone that ends in a layer called head, under a head called top."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        self.backbone.add_module("stem", nn.Linear(4, 4))
        self.backbone.add_module("head", nn.Linear(4, 4))
        self.top, self.head = nn.Linear(4, 2), nn.Identity()

    def forward(self, batch: Tensor) -> Tensor:
        return self.top(torch.tanh(self.backbone(batch)))  # type: ignore[no-any-return]


def test_a_layer_called_head_is_a_block_of_the_backbone_and_is_stepped_once() -> None:
    module, plain = OwnHead(), OwnHead()
    stages = [
        Stage("head", ["head"], lr=0.1),
        Stage("block", ["backbone.head"], lr=0.1, lr_decay=0.5),
        Stage("all", ["all"], lr=0.1, lr_decay=0.5),
    ]
    trainer = fit(module, stages)
    groups = [group["name"] for group in trainer.optimizers[0].param_groups if "/" not in group["name"]]
    assert groups == ["backbone.stem", "backbone.head", "head"]
    loop(
        plain,
        [
            ({"top": 0.1}, 3),
            ({"top": 0.1, "backbone.head": 0.05}, 3),
            ({"top": 0.1, "backbone.head": 0.05, "backbone.stem": 0.025}, 3),
        ],
    )
    assert_equal(module, plain)


def test_our_words_are_never_names_of_layers() -> None:
    module = OwnHead()
    assert describe(module).blocks == ("stem", "backbone.head")
    assert plan_of(module, Stage("s", ["head"], lr=1.0)).stages[0].open == ("top.weight", "top.bias")
    inner = plan_of(module, Stage("s", [{"match": "head"}], lr=1.0)).stages[0]
    assert inner.open == ("backbone.head.weight", "backbone.head.bias")
    assert inner.rates["backbone.head"] == 1.0
    rated = plan_of(module, Stage("s", ["all"], lrs={"head": 1.0, "backbone.head": 2.0, "all": 3.0})).stages[0]
    assert [rated.rates[name] for name in ("backbone.stem", "backbone.head", "head")] == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_a_timm_network_that_ends_in_a_layer_head_trains_as_a_plain_loop(name: str) -> None:
    class Timm(Program):
        def __init__(self) -> None:
            super().__init__()
            small = {"depth": 2, "img_size": 32, "patch_size": 8} if name.startswith("vit") else {"depths": (1,) * 4}
            self.backbone = timm.create_model(name, num_classes=5, **small)
            self.head = nn.Linear(5, 2)

    pictures = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.DataLoader(pictures, 8)  # type: ignore[arg-type]
    module, plain = Timm(), Timm()
    stages = [
        Stage("head", ["head"], lr=0.01),
        Stage("top", ["backbone.head"], lr=0.01),
        Stage("all", ["all"], lr=0.01),
    ]
    trainer = fit(module, stages, data=(data,))
    assert unfreezing_of(trainer).plan.blocks[-1] == "backbone.head"
    everything = {"": 0.01}
    loop(
        plain, [({"head": 0.01}, 3), ({"head": 0.01, "backbone.head": 0.01}, 3), (everything, 3)], batches=list(data)
    )
    assert_equal(module, plain, 1e-5)


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        self.encoder.add_module("stem", nn.Linear(4, 4))
        self.encoder.add_module("top", nn.Linear(4, 4))
        self.neck = nn.Linear(4, 4)


class SecondName(Program):
    """A backbone that stands in the module twice."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Whole()
        self.backbone = self.model.encoder

    def forward(self, batch: Tensor) -> Tensor:
        return self.head(torch.tanh(self.model.neck(self.model.encoder(batch))))  # type: ignore[no-any-return]


class ByPath(SecondName):
    def __init__(self) -> None:
        super().__init__()
        del self.backbone


@pytest.mark.parametrize(
    ("kind", "settings"), [(SecondName, {}), (ByPath, {"backbone": "model.encoder"})], ids=["second name", "path"]
)
def test_a_backbone_within_another_module_is_found_by_identity(kind: Any, settings: dict[str, Any]) -> None:
    module, plain = kind(), kind()
    trainer = fit(module, HEAD_THEN_ALL, **settings)
    first = unfreezing_of(trainer).plan.stages[0]
    assert set(first.open) == {"head.weight", "head.bias", "model.neck.weight", "model.neck.bias"}
    head = {"model.neck": 0.1, "head": 0.1}
    own = settings.get("backbone", "backbone")  # the name under which the plain module lists it
    loop(plain, [(head, 3), ({**head, f"{own}.top": 0.05, f"{own}.stem": 0.025}, 6)])
    assert_equal(module, plain)


def test_a_property_may_name_the_backbone_and_patterns_see_it_under_that_name() -> None:
    class Holder(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.out = Whole(), nn.Linear(4, 2)

        @property
        def backbone(self) -> nn.Module:
            return self.model.encoder

    plan = plan_of(Holder(), Stage("s", [{"params": [r"backbone\.top\..*", "(?!backbone).*"]}], lr=1.0))
    assert plan.stages[0].open == (
        "backbone.top.weight", "backbone.top.bias", "model.neck.weight", "model.neck.bias", "out.weight", "out.bias",
    )  # fmt: skip


def test_a_weight_that_two_layers_share_is_in_one_block() -> None:
    module = Program()
    module.backbone.top.weight = module.backbone.stem.weight  # type: ignore[union-attr, assignment]
    module.head.tied = module.backbone.mid.weight  # type: ignore[assignment]
    names = [name for group in plan_of(module, Stage("s", ["all"], lr=1.0)).groups for name in group.parameters]
    assert len(names) == len(set(names)) == len(list(module.parameters()))
    found = {p.name: p.block for p in describe(module).parameters}
    assert (found["backbone.stem.weight"], found["backbone.mid.weight"]) == ("stem", "mid")


class Taught(Program):
    """A frozen teacher beside the backbone, with BatchNorm and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.teacher.scale = nn.Parameter(torch.ones(()))
        self.teacher.requires_grad_(False).eval()
        self.offset = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.modes: set[bool] = set()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.modes.add(self.teacher[1].training)
        with torch.no_grad():
            aim = self.teacher(batch) * self.teacher.scale + self.offset
        return (self(batch) - aim).square().mean()


@pytest.mark.parametrize("all_given", [True, False])
def test_a_frozen_teacher_beside_the_backbone_is_held(all_given: bool) -> None:
    class Module(Taught):
        def configure_optimizers(self) -> Any:
            return SGD([p for p in self.parameters() if all_given or p.requires_grad], lr=1.0, momentum=0.9)

    module, plain = Module(), Module()
    before = copy.deepcopy(module.teacher.state_dict())
    trainer = fit(module, HEAD_THEN_ALL)
    assert module.modes == {False}
    for name, value in module.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    plan = unfreezing_of(trainer).plan
    assert {"teacher.0.weight", "teacher.scale", "offset"} <= set(plan.held)
    assert not set(plan.held) & {name for stage in plan.stages for name in stage.open}
    loop(plain, [({"head": 0.1}, 3), (dict(ALL_FALLING), 6)])
    assert_equal(module, plain)
    assert not any(p.requires_grad for p in module.teacher.parameters())


ALL_FALLING = {"head": 0.1, "backbone.top": 0.05, "backbone.mid": 0.025, "backbone.stem": 0.0125}


def test_what_came_frozen_within_a_block_that_trains_is_held_and_listed() -> None:
    module = Program()
    module.backbone.mid.bias.requires_grad_(False)  # type: ignore[union-attr]
    before = module.backbone.mid.bias.clone()  # type: ignore[union-attr, operator]
    trainer = fit(module, HEAD_THEN_ALL)
    assert unfreezing_of(trainer).plan.held == ("backbone.mid.bias",)
    assert torch.equal(module.backbone.mid.bias, before)  # type: ignore[union-attr, arg-type]
    assert not module.backbone.mid.bias.requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("frozen", "opens", "block"),
    [
        (["top"], ["head", "top"], "top"),
        (["stem", "mid", "top"], ["all"], "stem"),
        (["top"], ["head", {"last": 1}], "top"),
        (["mid"], ["head", {"params": "backbone.*"}], "mid"),
    ],
)
def test_a_stage_that_names_what_came_frozen_is_an_error_unless_that_is_said(
    frozen: list[str], opens: list[Any], block: str
) -> None:
    def made() -> Program:
        module = Program()
        for name in frozen:
            module.backbone.get_submodule(name).requires_grad_(False)
        return module

    stages = Schedule(stages=[Stage("a", opens, lr=0.1)], leave_frozen=True)
    with pytest.raises(
        ScheduleError,
        match=rf"^stage a: {block} came frozen; leave freezing to the schedule, or say came_frozen=open$",
    ):
        fit(made(), stages)
    module = made()
    before = {name: p.clone() for name, p in module.named_parameters()}
    fit(module, stages, came_frozen="open")
    assert all(
        not torch.equal(p, before[f"backbone.{block}.{name}"])
        for name, p in module.backbone.get_submodule(block).named_parameters()
    )
    assert not any(p.requires_grad for p in module.backbone.get_submodule(block).parameters())  # as it came


def test_a_head_that_came_frozen_is_named_too() -> None:
    module = Program().requires_grad_(False)
    with pytest.raises(ScheduleError, match="stage head: head came frozen; leave freezing to the schedule"):
        fit(module, HEAD_THEN_ALL)
    fit(module, HEAD_THEN_ALL, came_frozen="open")
    taught = Taught()
    taught.backbone.requires_grad_(False)
    before = taught.teacher[0].weight.clone()
    fit(taught, HEAD_THEN_ALL, came_frozen="open")
    assert torch.equal(taught.teacher[0].weight, before)


class Late(Program):
    """Its neck is made by a hook."""

    def add(self) -> None:
        if not hasattr(self, "neck"):
            torch.manual_seed(1)
            self.neck = nn.Linear(4, 4)

    def forward(self, batch: Tensor) -> Tensor:
        return self.head(torch.tanh(self.neck(self.backbone(batch))))  # type: ignore[no-any-return]


class InSetup(Late):
    def setup(self, stage: str) -> None:
        self.add()


class InConfigureModel(Late):
    def configure_model(self) -> None:
        self.add()


class InOnTrainStart(Late):
    def on_fit_start(self) -> None:
        self.add()


@pytest.mark.parametrize("kind", [InSetup, InConfigureModel])
def test_a_layer_that_is_made_as_fitting_begins_is_planned(kind: Any) -> None:
    module, plain = kind(), kind()
    trainer = fit(module, HEAD_THEN_ALL)
    assert "neck.weight" in unfreezing_of(trainer).plan.stages[0].open
    plain.add()
    loop(plain, [({"head": 0.1, "neck": 0.1}, 3), ({**ALL_FALLING, "neck": 0.1}, 6)])
    assert_equal(module, plain)


def test_a_layer_that_is_made_after_the_plan_is_an_error_before_the_first_step() -> None:
    with pytest.raises(
        ScheduleError, match=r"neck\.weight was made after the plan; make it in __init__, setup or conf"
    ):
        fit(InOnTrainStart(), HEAD_THEN_ALL)


def test_a_parameter_that_the_plan_does_not_know_is_refused_by_name() -> None:
    class Bare(Program):
        def __init__(self) -> None:
            super().__init__()
            self.backbone.cls = nn.Parameter(torch.zeros(4))

    with pytest.raises(
        ScheduleError, match=r"backbone\.stem\.weight is in no block; name stem in blocks=\.\.\., or hold"
    ):
        fit(Program(), HEAD_THEN_ALL, blocks=["mid", "top"])
    with pytest.raises(ScheduleError, match=r"backbone\.cls is in no block; name cls in blocks"):
        fit(Bare(), HEAD_THEN_ALL, blocks=["stem", "mid", "top"])
    assert describe(Bare()).blocks == ("cls", "stem", "mid", "top")
    held = Bare()
    held.backbone.cls.requires_grad_(False)  # type: ignore[union-attr]
    assert describe(held).blocks == ("stem", "mid", "top")
    assert describe(held).held == {"backbone.cls"}


def test_an_optimizer_over_what_is_not_the_modules_is_refused() -> None:
    class Strange(Program):
        def configure_optimizers(self) -> Any:
            return SGD([*self.parameters(), nn.Parameter(torch.zeros(7, 3))], lr=1.0)

    with pytest.raises(ScheduleError, match=r"the optimizer holds 1 parameters that are not the module's.*\(7, 3\)"):
        fit(Strange(), HEAD_THEN_ALL)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"a": ["stem"], "b": ["stem", "mid", "top"]}, "layer stem stands in blocks a and b"),
        ({"a": ["stem", "mid", "top"], "head": ["top"]}, r"layer top stands in blocks a and backbone\.head"),
        ({"head": ["stem"], "backbone.head": ["mid", "top"]}, r"two blocks are called backbone\.head"),
    ],
)
def test_a_layer_stands_in_one_block(blocks: Any, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        network_of(Program(), blocks)


def test_a_lazy_layer_is_refused_by_name() -> None:
    class Lazy(Program):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.LazyLinear(2)

    with pytest.raises(
        ScheduleError, match=r"head\.weight has no shape yet; run a batch through its lazy layer in se"
    ):
        fit(Lazy(), HEAD_THEN_ALL)


class Normed(Program):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        for name in ("stem", "mid", "top"):
            self.backbone.add_module(name, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.1)))


def traces(module: nn.Module) -> list[Any]:
    own = [(name, p.requires_grad) for name, p in module.named_parameters()]
    methods = [name for layer in module.modules() for name in ("train", "eval", "log") if name in vars(layer)]
    hooks = [len(layer._forward_pre_hooks) + len(layer._forward_hooks) for layer in module.modules()]
    return [own, [layer.training for layer in module.modules()], methods, hooks]


class Stop(Exception): ...


class StopAt(Callback):
    def __init__(self, hook: str) -> None:
        def stop(*_: Any) -> None:
            raise Stop

        setattr(self, hook, stop)


@pytest.mark.parametrize(
    "hook",
    ["", "on_train_start", "on_train_batch_end", "on_validation_start", "on_validation_end", "on_train_epoch_end"],
)
def test_after_fit_everything_is_as_it_was_also_after_an_exception(hook: str) -> None:
    module = Normed()
    module.backbone.mid[0].bias.requires_grad_(False)  # type: ignore[union-attr, index]
    module.backbone.top[2].eval()  # type: ignore[union-attr, index, operator]
    before, train = traces(module), nn.Module.train
    if hook:
        with pytest.raises(Stop):
            fit(module, HEAD_ONLY, StopAt(hook), ema=0.9)
    else:
        fit(module, HEAD_ONLY, ema=0.9)
    assert traces(module) == before
    assert nn.Module.train is train
    copied = pickle.loads(pickle.dumps(copy.deepcopy(module.backbone)))
    assert all(layer.training for layer in copied.train().modules())


HEAD_ONLY = Schedule(stages=[Stage("head", ["head"], lr=0.1)], leave_frozen=True)


def test_a_plain_fit_after_ours_trains_everything() -> None:
    module = Normed()
    fit(module, HEAD_ONLY)
    before = module.backbone.stem[1].running_mean.clone()  # type: ignore[union-attr, index, operator]
    Trainer(max_epochs=1, **QUIET).fit(module, loader())
    assert not torch.equal(module.backbone.stem[1].running_mean, before)  # type: ignore[union-attr, index]


@pytest.mark.parametrize("is_copied", [True, False])
def test_a_staged_fit_after_a_head_only_one_equals_a_fresh_one(is_copied: bool) -> None:
    module = Normed()
    fit(module, HEAD_ONLY)
    fresh = Normed()
    fresh.load_state_dict(module.state_dict())
    module = copy.deepcopy(module) if is_copied else module
    trained = []
    for one in (module, fresh):
        torch.manual_seed(5)
        trainer = fit(one, HEAD_THEN_ALL)
        assert unfreezing_of(trainer).plan.held == ()
        trained.append(one)
    assert_equal(*trained, tolerance=0.0)


def test_a_copy_made_while_it_trains_is_free_and_frozen_layers_stay_in_eval_whoever_calls_train() -> None:
    class Calls(Normed):
        def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
            self.train()

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.backbone.train()
            copied = copy.deepcopy(self.backbone).train()
            assert all(layer.training for layer in copied.modules())
            return super().training_step(batch, batch_idx)

    module = Calls()
    before = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    fit(module, HEAD_ONLY)
    for name, value in module.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_layers_in_eval_mode_on_purpose_stay_there_and_open_blocks_train() -> None:
    class Watching(Normed):
        def __init__(self) -> None:
            super().__init__()
            self.noise = nn.Dropout(0.5).eval()
            self.backbone.eval()  # as some libraries hand their networks out
            self.seen: list[tuple[bool, ...]] = []

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.seen.append((self.noise.training, self.backbone.stem[2].training, self.head.training))  # type: ignore[union-attr, index]
            return super().training_step(batch, batch_idx)

    module = Watching()
    fit(module, HEAD_THEN_ALL)
    assert module.seen == [(False, False, True)] * 3 + [(False, True, True)] * 6


@pytest.mark.slow
@pytest.mark.parametrize("wrap", ["backbone", "module", "in place"])
def test_a_compiled_backbone_or_module_trains_by_the_numbers_of_a_plain_loop(wrap: str) -> None:
    module: Any = Program()
    if wrap == "backbone":
        module.backbone = torch.compile(module.backbone, backend="aot_eager")
    elif wrap == "in place":
        module.backbone.compile(backend="aot_eager")
    else:
        module = torch.compile(module, backend="aot_eager")
    trainer = fit(module, HEAD_THEN_ALL)
    assert unfreezing_of(trainer).plan.blocks == ("stem", "mid", "top")
    plain = Program()
    loop(plain, [({"head": 0.1}, 3), (ALL_FALLING, 6)])
    ours = {name.replace("_orig_mod.", ""): value for name, value in trainer.lightning_module.state_dict().items()}
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_example_trains_by_the_numbers_of_a_plain_loop(tmp_path: Path) -> None:
    """examples/own_module.py, with its stages of epochs and steps, and groups of its own."""
    example = Path(__file__).parents[1] / "examples" / "own_module.py"
    code = f"""
import runpy, sys, torch
from torch.nn import functional as F
own = runpy.run_path({str(example)!r})
torch.manual_seed(0)
data = own["loaders"]()
train = list(data[0])
module, plain = own["Digits"](), own["Digits"]()
plain.load_state_dict(module.state_dict())
stages = own["STAGES"][:1] + [own["Stage"]("all", ["all"], steps=4, lr=1e-3, lr_decay=0.5, batch_norm="frozen")]
unfreezing = own["StagedUnfreezing"](stages, blocks=own["BLOCKS"])
own["Trainer"](callbacks=[unfreezing], logger=False, enable_checkpointing=False, accelerator="cpu",
               num_sanity_val_steps=0).fit(module, data[0])
groups, rates = [], {{b: 1e-3 * 0.5 ** (5 - i) for i, b in enumerate(own["BLOCKS"])}}
norms = {{n for n, m in plain.backbone.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}}
for block, layers in own["BLOCKS"].items():
    for layer in layers:
        for name, p in plain.backbone.get_submodule(layer).named_parameters():
            full = f"{{layer}}.{{name}}"
            if full.rpartition(".")[0] not in norms:
                groups.append({{"params": [p], "lr": rates[block], "weight_decay": 0.01}})
head = {{"params": list(plain.head.parameters()), "lr": 1e-2, "weight_decay": 0.1}}
optimizer = torch.optim.AdamW([head, *groups])
for step in range(10):
    plain.train()
    plain.backbone.eval()
    plain.backbone.requires_grad_(step >= 6)
    head = optimizer.param_groups[0]
    head["lr"] = 1e-2 if step < 6 else 1e-3
    optimizer.zero_grad()
    images, target = train[step % 6]
    F.cross_entropy(plain.head(plain.backbone(images)), target).backward()
    optimizer.step()
for name, value in plain.state_dict().items():
    torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
"""
    (tmp_path / "compared.py").write_text(code)
    process = start(str(tmp_path / "compared.py"), cwd=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


class Layered(Program):
    """A backbone whose layers are partly without parameters, as most networks' are."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(4, affine=False)
        layers = {"stem": nn.Linear(4, 4), "act": nn.ReLU(), "norm": norm, "top": nn.Linear(4, 4)}
        self.backbone = nn.Sequential(OrderedDict(layers))
        self.seen: list[bool] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append(self.backbone.norm.training)  # type: ignore[arg-type, union-attr]
        return super().training_step(batch, batch_idx)


def test_layers_without_parameters_belong_to_the_block_before() -> None:
    module = Layered()
    plan = plan_of(module, Stage("all", ["all"], lr=1.0, lr_decay=0.5))
    assert plan.blocks == ("stem", "top")
    assert {name: rate for name, rate in plan.stages[0].rates.items() if "/" not in name} == {
        "backbone.stem": 0.25, "backbone.top": 0.5, "head": 1.0,
    }  # fmt: skip
    fit(module, [Stage("head", ["head", "top"], lr=0.1), Stage("all", ["all"], lr=0.1)])
    assert module.seen == [False] * 3 + [True] * 3
    given = Layered()
    fit(given, [Stage("all", ["all"], lr=0.1, lr_decay=0.5)], blocks=["stem", "act", "norm", "top"])
    assert given.seen == [True] * 3


def test_an_optimizers_own_count_in_its_groups_stays_from_stage_to_stage() -> None:
    class Counting(SGD):
        """Warms up over its first steps, as some optimizers do."""

        def step(self, closure: Any = None) -> Any:
            loss = closure() if closure else None
            for group in self.param_groups:
                group["count"] = group.get("count", 0) + 1
            super().step()
            return loss

    class Module(Program):
        def configure_optimizers(self) -> Any:
            return Counting(self.parameters(), lr=1.0)

    trainer = fit(Module(), HEAD_THEN_ALL)
    assert {group["count"] for group in trainer.optimizers[0].param_groups} == {9}


def test_a_head_alone_may_be_in_the_optimizer_where_no_stage_opens_more() -> None:
    class Module(Program):
        def configure_optimizers(self) -> Any:
            return SGD(self.head.parameters(), lr=1.0, momentum=0.9)

    module, plain = Module(), Program()
    fit(module, HEAD_ONLY)
    loop(plain, [({"head": 0.1}, 3)])
    assert_equal(module, plain)


def test_metrics_that_change_their_hash_leave_nothing() -> None:
    class Measured(Taught):
        def __init__(self) -> None:
            super().__init__()
            self.teacher.add_module("mean", MeanMetric())

        def on_train_epoch_end(self) -> None:
            self.teacher.mean.update(1.0)
            self.teacher.mean.reset()

    train = nn.Module.train
    fit(Measured(), HEAD_THEN_ALL)
    assert nn.Module.train is train


class Strict(Program):
    """Keeps a part out of its state dict, as programs with a large frozen encoder do."""

    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if "stem" not in name}


class Extra(Program):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: dict[str, int]) -> None: ...


@pytest.mark.parametrize("kind", [Strict, Extra])
def test_going_back_to_the_best_follows_the_modules_own_state_dict(kind: Any) -> None:
    stages = Schedule(stages=[Stage("a", ["all"], epochs=3, restore_best=True, lr=0.1)], monitor="val_loss")
    assert fit(kind(), stages, ema=0.9).global_step == 9
