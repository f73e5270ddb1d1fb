"""`stagetune lr`: a learning-rate range test of each stage of a schedule, on cached features where it can be."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.seed import isolate_rng

from stagetune.artifacts import RunDir
from stagetune.cache.tables import Tables
from stagetune.config.monitor import watched
from stagetune.config.schema import Config, LoggerConfig
from stagetune.errors import TrainingError
from stagetune.run.beginning import first_task
from stagetune.run.build import build_trainer, came_frozen, check_exact, check_targets
from stagetune.run.compress import compress
from stagetune.run.data import build_data, build_store, decode_once, reading_of
from stagetune.run.experiment import run_experiment
from stagetune.run.lr_curve import Curve, proposal, range_test
from stagetune.run.plain_loop import PlainLoop
from stagetune.run.precision import device_type, products, resolve_precision
from stagetune.run.pretrained import find_weights
from stagetune.run.repeatable import seeds_unsaid
from stagetune.run.screen import Screen, quiet_libraries
from stagetune.schedule.network import network_of
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.spec import HEAD, Stage
from stagetune.schedule.table import columns

LOW, HIGH = 1e-6, 10.0  # of the rate that the schedule names


@dataclass(frozen=True)
class StageTest:
    """What the test of a stage has found.

    Attributes:
        stage: as the schedule says it.
        scheduled: the rate that is tested: its `lr`, or else its highest. All others keep their ratio to it.
        curve: loss against that rate.
        proposed: what the test proposes instead; None where the loss never fell.
        trained_on: in words.
        seconds: how long it took, with making the features.
    """

    stage: Stage
    scheduled: float
    curve: Curve
    proposed: float | None
    trained_on: str
    seconds: float


def rate_tests(config: Config, steps: int, screen: Screen) -> list[StageTest]:
    """Test each stage of the configuration's schedule; nothing is written but what the feature cache keeps.

    The first begins with the weights that a run would begin with; later ones, if the first trains the head alone,
    with a head that the first has trained as the schedule says, since the rate of a backbone below a head of random
    weights says little. What stages between do to the backbone, and what the optimizer remembers of them, is left
    out. One process trains, in single precision where fp16 is asked for.

    Args:
        config: of a run.
        steps: optimizer steps of each test, at most.
        screen: where it is said what is tested, and where weights come from.

    Returns:
        A test for each stage.

    Raises:
        StagetuneError: for whatever a person can mend.
    """
    accelerator = str(config.trainer.get("accelerator", "auto"))
    kept = {key: value for key, value in config.trainer.items() if key.startswith(("gradient_clip", "limit_train"))}
    config = replace(
        config, trainer={**kept, "accelerator": accelerator, "devices": 1}, logger=LoggerConfig(csv=False)
    )
    check_targets(config)
    precision = resolve_precision(config.precision, device_type(accelerator))
    precision = "fp32" if precision == "fp16" else precision
    with quiet_libraries(), isolate_rng(include_cuda=False), seeds_unsaid(), products(precision):
        store = build_store(config, lambda text: screen.line("cache", text), writes=True)
        with reading_of(config, screen, decodes_once=config.cache.images == "auto") as reading:
            data = build_data(config, reading=reading)
            if config.cache.images == "auto":
                decode_once(data, store, reading)
        weights = find_weights(config, screen, run_experiment)
        seed_everything(config.seed, workers=True, verbose=False)
        task = first_task(config, data, weights, None)
        compress(config, task, data)
        network = network_of(task, came_frozen=came_frozen(config))
        plan = make_plan(watched(config), network.model)
        check_exact(plan, task)
        trainer = build_trainer(config, precision=precision, callbacks=[], run_dir=RunDir(Path("outputs")))
        trainer.strategy.connect(task)
        task.to(trainer.strategy.root_device)
        loop = PlainLoop(config, data, Tables(data, store, config.cache, trainer), network, plan)
        tests = []
        for stage, said in zip(plan.stages, config.schedule.stages, strict=True):
            if stage.index == 1 and plan.stages[0].open_blocks == (HEAD,):
                loop.train(plan.stages[0])
            screen.line("testing", f"stage {said.name}")
            start, scheduled = time.monotonic(), said.lr or max(stage.rates.values())
            with loop.kept(), loop.training(stage) as step:
                curve = range_test(lambda rate, to=scheduled: step(rate / to), low=LOW, high=HIGH, steps=steps)  # type: ignore[misc]
            if not len(curve.losses):
                raise TrainingError(f"stage {stage.name}: its loss is no number before anything is trained")
            trained_on = f"features of {plan.blocks[loop.depth - 1]}" if loop.depth else "images"
            trained_on += ", not augmented" if loop.depth and not data.repeats("train") else ""
            seconds = time.monotonic() - start
            tests.append(StageTest(said, scheduled, curve, proposal(curve), trained_on, seconds))
        return tests


def rate_table(tests: Sequence[StageTest]) -> str:
    """One line per stage: its rate, the proposed one, and what that is from."""
    rows = [("stage", "rate in the schedule", "proposed", "loss lowest at", "trained on", "seconds")]
    for test in tests:
        lowest = f"{test.curve.rates[test.curve.smoothed.argmin()]:.1e}"
        proposed, lowest = (f"{test.proposed:.1e}", lowest) if test.proposed else ("none", "it never fell")
        named = f"{test.scheduled:.1e}{'' if test.stage.lr else ', its highest'}"
        rows.append((test.stage.name, named, proposed, lowest, test.trained_on, f"{test.seconds:.1f}"))
    return "\n".join(columns(rows))


def rate_overrides(tests: Sequence[StageTest]) -> Iterator[str]:
    """The proposals as words of a command line; those of a stage with `lrs` cannot be said so."""
    for i, test in enumerate(tests):
        if test.proposed and not test.stage.lrs:
            if test.stage.lr_range:
                low, high = (rate * test.proposed / test.scheduled for rate in test.stage.lr_range)
                yield f"schedule.stages.{i}.lr_range=[{low:.1e},{high:.1e}]"
            else:
                yield f"schedule.stages.{i}.lr={test.proposed:.1e}"


def rate_notes(tests: Sequence[StageTest]) -> Iterator[str]:
    """What cannot be said as an override."""
    for test in tests:
        if test.proposed and test.stage.lrs:
            beside = ", and its lr" if test.stage.lr else ""
            yield f"stage {test.stage.name}: multiply its lrs by {test.proposed / test.scheduled:.2g}{beside}"
        if not test.proposed:
            yield f"stage {test.stage.name}: at no rate did the loss fall clearly below where it began"
