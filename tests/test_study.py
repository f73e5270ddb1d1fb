"""`hydra/sweeper=optuna`: a search that several processes share, that goes on, and that ends what is not worth it."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from stagetune.config.schema import Config
from stagetune.errors import ConfigError, Pruned
from stagetune.report.collect import collect
from stagetune.report.result import read_result
from stagetune.run import run_experiment
from stagetune.run.pruning import open_study
from stagetune.sweep.study import corners, space
from test_sweep import ended, sweep, told, until

pytestmark = pytest.mark.usefixtures("_no_pictures")

SEARCH = (
    "hydra/sweeper=optuna", "schedule=head_only,full", "schedule.stages.0.lr=tag(log,interval(1e-4,1e-2))",
    "sweep.name=search", "checkpoint.min_seconds=0",
)  # fmt: skip


def parsed(*words: str) -> list:  # type: ignore[type-arg]
    return OverridesParser.create().parse_overrides(list(words))


def test_choices_and_intervals_are_searched_and_all_else_stays() -> None:
    fixed, searched = space(
        parsed(
            "+experiment=siamese_staged",
            "schedule=full,staged",
            "a.lr=tag(log,interval(1e-4,0.1))",
            "a.n=int(interval(1,8))",
        )
    )
    assert fixed == ["+experiment=siamese_staged"]
    assert searched == {
        "schedule": optuna.distributions.CategoricalDistribution(["full", "staged"]),
        "a.lr": optuna.distributions.FloatDistribution(1e-4, 0.1, log=True),
        "a.n": optuna.distributions.IntDistribution(1, 8),
    }
    assert list(corners(searched)) == [
        {"schedule": "full", "a.lr": 1e-4, "a.n": 1},
        {"schedule": "staged", "a.lr": 0.1, "a.n": 8},
    ]


def test_a_search_for_a_seed_or_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed: a search would choose the luckiest"):
        space(parsed("seed=0,1", "schedule=full,staged"))
    with pytest.raises(ConfigError, match=r"hydra/sweeper=optuna: nothing to search; give choices"):
        space(parsed("schedule=full"))


@pytest.mark.slow
def test_a_trial_that_is_worse_than_the_median_after_a_stage_is_not_gone_on_with(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    study = open_study(tmp_path, higher_is_better=True)
    for _ in range(4):
        other = study.ask()
        other.report(0.999, 0)
        study.tell(other, 0.999)
    number = study.ask().number
    config = tiny("+experiment=siamese_staged", stages=2)
    config.sweep.trial = number
    run_dir = tmp_path / "trial" / "seed-0"
    with pytest.raises(
        Pruned, match=rf"trial {number} ends after stage head: val/auc 0\.\d+ is worse than the median"
    ):
        run_experiment(config, run_dir)
    result = read_result(run_dir)
    assert result.status == "pruned"
    assert [stage["name"] for stage in result.stages] == ["head"]
    assert list(study.trials[number].intermediate_values) == [0]


@pytest.mark.slow
def test_a_search_killed_in_a_trial_goes_on_with_it_and_two_processes_share_the_rest(tmp_path: Path) -> None:
    base = tmp_path / "outputs" / "sweeps" / "search"
    words = (*SEARCH, "hydra.sweeper.trials=5")
    first = sweep(*words, cwd=tmp_path)
    until(lambda: list(base.glob("trial-0001/*/checkpoints/last.ckpt")), first)  # inside the second
    first.send_signal(signal.SIGKILL)
    first.communicate()
    workers = [sweep(*words, cwd=tmp_path) for _ in range(2)]
    done = [ended(worker) for worker in workers]
    assert [(code, err) for code, _, err in done] == [(0, "")] * 2
    lines = [line for _, out, _ in done for line in told(out)]
    assert any("goes on in epoch" in out for _, out, _ in done)
    study = open_study(base)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5
    for trial in study.trials:
        (path,) = base.glob(f"trial-{trial.number:04d}/*/result.json")
        assert json.loads(path.read_text())["best"]["value"] == trial.value
        assert sum(f"trial {trial.number} (" in line for line in lines) == (trial.number > 0)
    assert len(collect(base).runs) == 5
