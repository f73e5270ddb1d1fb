"""Trackers are told what a run is and becomes; MLflow's real store is read back with its own client."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from stagetune.config.compose import CONF
from stagetune.config.schema import Config
from stagetune.run import run_experiment
from stagetune.sweep.jobs import Job, write_sweep

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")


def store(folder: Path) -> str:
    return f"sqlite:///{folder}/outputs/mlflow.db"


@pytest.fixture
def logged(tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Configurations as logger=mlflow makes them, with the store in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load((CONF / "logger" / "mlflow.yaml").read_text())["lightning"]

    def configure(*overrides: str, **more: int) -> Config:
        config = tiny("+experiment=classifier_staged", "data.image_size=16", *overrides, **more)
        # MLflow keeps an open store by its name, so that a relative one would be the first test's
        config.logger.lightning = {**settings, "experiment_name": "tried", "tracking_uri": store(tmp_path)}
        return config

    (tmp_path / "outputs").mkdir()
    return configure


@pytest.mark.slow
def test_mlflow_has_a_run_per_job_below_that_of_the_sweep(logged: Callable[..., Config], tmp_path: Path) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "mine"
    folders = [sweep / "schedule-staged" / f"seed-{seed}" for seed in range(2)]
    configs = [logged(f"seed={seed}", stages=2) for seed in range(2)]
    write_sweep(sweep, [Job((), config, folder) for config, folder in zip(configs, folders, strict=True)])
    results = [run_experiment(config, folder) for config, folder in zip(configs, folders, strict=True)]
    client = mlflow.MlflowClient(store(tmp_path))
    experiment = client.get_experiment_by_name("tried")
    parent, *jobs = sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.start_time)
    assert parent.data.tags["mlflow.runName"] == "mine"
    assert len(jobs) == 2
    for job, result in zip(jobs, results, strict=True):
        tags = job.data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert tags["mlflow.runName"] == f"schedule-staged/seed-{result.seed}"
        assert (tags["sweep"], tags["stage"], tags["status"]) == ("mine", "layer4", "completed")
        assert job.info.status == "FINISHED"
        assert job.data.params["seed"] == str(result.seed)
        assert job.data.params["schedule/name"] == "staged"
        assert job.data.metrics["test/accuracy"] == pytest.approx(result.test["test/accuracy"])
        history = client.get_metric_history(job.info.run_id, "val/accuracy")
        assert len(history) == 2
        assert max(point.value for point in history) == pytest.approx(result.score)
        names = {entry.path for entry in client.list_artifacts(job.info.run_id)}
        assert {"result.json", "plan.txt", "config.yaml", "metrics.csv", "figures"} <= names
        assert client.list_artifacts(job.info.run_id, "figures")


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_a_failed_run_ends_as_failed_and_goes_on_in_the_same_run_of_mlflow(
    logged: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "outputs" / "mine" / "now"
    config = logged(stages=2)
    config.checkpoint.min_seconds = 0
    from stagetune.tasks.classification import ClassificationTask

    honest, seen = ClassificationTask.training_step, []

    def break_off(self: ClassificationTask, *arguments: object) -> object:
        if self.current_epoch == 1 and not seen:  # in the second stage, once
            seen.append(1)
            raise RuntimeError("out of something")
        return honest(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ClassificationTask, "training_step", break_off)
    with pytest.raises(RuntimeError):
        run_experiment(config, run_dir)
    client = mlflow.MlflowClient(store(tmp_path))
    experiment = client.get_experiment_by_name("tried").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.status, run.data.tags["status"], run.data.tags["stage"]) == ("FAILED", "failed", "layer4")
    run_experiment(config, run_dir, resume=True)
    (run,) = client.search_runs([experiment])
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "completed")


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_wandb_has_a_run_of_its_own_for_each_job_of_a_process_offline(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load((CONF / "logger" / "wandb.yaml").read_text())["lightning"]
    for seed in (0, 1):
        config = tiny("+experiment=classifier_staged", f"seed={seed}", stages=1)
        config.logger.lightning = {**settings, "name": f"job {seed}"}
        run_experiment(config, tmp_path / str(seed))
        (kept,) = (tmp_path / str(seed) / "wandb").glob("offline-run-*/run-*.wandb")
        words = [word.encode() for word in (f"job {seed}", "val/accuracy", "cross_entropy", "test/accuracy")]
        # wandb's own process writes the file, and goes on to do so after finish()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not all(word in kept.read_bytes() for word in words):
            time.sleep(0.1)
        assert [word for word in words if word not in kept.read_bytes()] == []
