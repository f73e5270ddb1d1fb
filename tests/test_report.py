"""`stagetune report` and `stagetune best`: what a sweep comes to, and what it cannot tell."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from stagetune.config.compose import compose
from stagetune.errors import ResultError
from stagetune.report.best import experiment_yaml
from stagetune.report.collect import collect
from stagetune.report.commands import newest_sweep, show_best, show_report
from stagetune.report.configurations import configurations
from stagetune.report.metrics import write_metrics
from stagetune.report.page import page
from stagetune.report.result import RunResult, write_result
from stagetune.report.statistics import compare, estimate, holm, paired_p, told_apart
from stagetune.report.summary import headline, summarize, verdict

CHROMIUM = shutil.which("chromium")


def leave(folder: Path, score: float | None, *overrides: str, seed: int = 0, error: str = "", **values: Any) -> Path:
    """A run's directory as run_experiment leaves it: 2 stages, 2 epochs each."""
    config = asdict(compose(["+experiment=siamese_staged", *overrides, f"seed={seed}"]))
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    level = score if score is not None else 0.5
    stages = [
        {
            "name": name, "start_epoch": 2 * i, "epochs": 2, "steps": 8, "trainable_params": 10 ** (6 + i),
            "total_params": 10**7, "trainable_blocks": [["head"], ["layer4", "head"]][i], "cached_depth": 0,
            "seconds": 5.0, "samples_per_second": 100.0, "peak_memory_mb": 500.0,
            "val": {"val/auc": level - 0.1 * (1 - i)},
        }
        for i, name in enumerate(("head", "layer4"))
    ]  # fmt: skip
    best = {
        "epoch": 3,
        "stage": "layer4",
        "metric": "val/auc",
        "mode": "max",
        "value": score,
        "checkpoint": "best.ckpt",
    }
    settings: dict[str, Any] = {
        "best": best if score is not None else None,
        "test": {"test/auc": level - 0.01},
        "stages": stages,
        "timing": {"fit_seconds": 10.0, "total_seconds": 12.0},
        "weights": {"requested": "auto", "used": "glyphs"},
        "data": {"name": "digits", "split": "images", "train": 60, "val": 20, "test": 20, "notes": []},
        "peak_memory_mb": 500.0,
        "error": {"type": "TrainingError", "message": error} if error else None,
    }
    result = RunResult(
        "failed" if error else "completed", "siamese_staged", "siamese", seed, "x", config["schedule"]["name"],
        config["precision"], 60, config["accumulation"], 60, **{**settings, **values},
    )  # fmt: skip
    write_result(result, folder)
    write_metrics(
        [{"epoch": e, "stage": "head", "val/auc": level - 0.1 / (e + 1)} for e in range(4)], folder / "metrics.csv"
    )
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three schedules over three seeds: staged above full by far, head_only below; one run of it failed."""
    rng = np.random.default_rng(0)
    jobs = {}
    for schedule, level in (("head_only", 0.7), ("staged", 0.9), ("full", 0.8)):
        for seed in range(3):
            name = f"schedule-{schedule}/seed-{seed}"
            jobs[name] = ["+experiment=siamese_staged", f"schedule={schedule}", f"seed={seed}"]
            failed = schedule == "head_only" and seed == 2
            score = None if failed else level + 0.01 * seed + float(rng.normal(0, 0.001))
            leave(
                tmp_path / name,
                score,
                f"schedule={schedule}",
                seed=seed,
                error="<script>no</script>" if failed else "",
            )
    jobs["schedule-staged/seed-3"] = ["+experiment=siamese_staged", "schedule=staged", "seed=3"]
    (tmp_path / "sweep.json").write_text(json.dumps({"schema_version": 1, "jobs": jobs}))
    return tmp_path


def test_runs_that_differ_in_the_seed_alone_are_one_configuration(tmp_path: Path) -> None:
    for i, (overrides, seed) in enumerate(
        [(["schedule=full"], 0), (["schedule=full"], 1), (["schedule=staged", "accumulation=x4"], 0)]
    ):
        leave(tmp_path / str(i), 0.9, *overrides, seed=seed)
    found, shared = configurations(collect(tmp_path).runs)
    assert [(one.columns, len(one.runs)) for one in found] == [
        ({"schedule": "full", "accumulation": "1"}, 2),
        ({"schedule": "staged", "accumulation": "4"}, 1),
    ]
    assert shared["task.name"] == "siamese"
    assert not {"seed", "name", "schedule.name", "accumulation"} & shared.keys()


def test_the_folds_of_a_seed_are_one_score_of_one_configuration(tmp_path: Path) -> None:
    for fold in range(3):
        for seed in range(2 if fold < 2 else 1):  # seed 1 has yet to run its last fold
            words = ["schedule=full", "data.folds=3", f"data.fold={fold}"]
            leave(tmp_path / f"{fold}-{seed}", 0.5 + 0.1 * fold + 0.01 * seed, *words, seed=seed)
    collection = collect(tmp_path)
    (found,), shared = configurations(collection.runs)
    assert found.scores == {0: pytest.approx(0.6)}
    assert found.tested("val/auc").mean == pytest.approx(0.59)
    assert "data.fold" not in shared
    assert summarize(collection).warnings == [
        "the only configuration: seed 1 left out, without all of the folds 0, 1, 2"
    ]


def test_scores_over_other_folds_or_other_splits_are_held_against_the_comparison(tmp_path: Path) -> None:
    for name, fold in (("full", 0), ("full", 1), ("staged", 1)):
        leave(tmp_path / f"{name}-{fold}", 0.5, f"schedule={name}", "data.folds=2", f"data.fold={fold}")
    for fold in range(2):
        leave(tmp_path / f"split-{fold}", 0.5, "schedule=full", "data.folds=2", f"data.fold={fold}", "data.seed=1")
    assert summarize(collect(tmp_path)).warnings == [
        "runs differ in their splits: most have data.seed=0, 2 with data.seed=1",
        "scores are means over other folds: most over 0, 1, data.seed=0 schedule=staged over 1",
    ]


def test_a_setting_within_a_group_is_a_column_only_where_the_groups_name_does_not_tell(tmp_path: Path) -> None:
    for i, rate in enumerate(("1e-3", "1e-4")):
        leave(tmp_path / str(i), 0.9, "schedule=full", f"schedule.stages.0.lr={rate}")
    leave(tmp_path / "staged", 0.9, "schedule=staged")
    found, _ = configurations(collect(tmp_path).runs)
    assert [one.columns for one in found] == [
        {"schedule": "full", "schedule.stages.0.lr": "0.001"},
        {"schedule": "full", "schedule.stages.0.lr": "0.0001"},
        {"schedule": "staged", "schedule.stages.0.lr": "0.003"},
    ]


def test_what_a_command_says_in_place_of_stages_is_the_column(tmp_path: Path) -> None:
    jobs = {
        "early": ["schedule=backbone_finetuning", "schedule.backbone_finetuning.unfreeze_backbone_at_epoch=2"],
        "late": ["schedule=backbone_finetuning", "schedule.backbone_finetuning.unfreeze_backbone_at_epoch=6"],
        "staged": ["schedule=staged"],
    }
    for name, words in jobs.items():
        leave(tmp_path / name, 0.9, *words)
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    found, _ = configurations(collect(tmp_path).runs)
    assert [tuple(one.columns.values()) for one in found] == [
        ("backbone_finetuning", "2"),
        ("backbone_finetuning", "6"),
        ("staged", "none"),
    ]
    assert [*found[0].columns] == ["schedule", "schedule.backbone_finetuning.unfreeze_backbone_at_epoch"]


def test_a_file_that_was_edited_between_two_runs_is_told_by_what_changed(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for name, rate in (("before", 0.1), ("after", 0.2)):
        file.write_text(yaml.safe_dump({"stages": [{"name": "all", "open": ["all"], "epochs": 1, "lr": rate}]}))
        leave(tmp_path / name, 0.9, f"schedule.file={file}")
    words = [f"schedule.file={file}"]
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": {"before": words, "after": words}}))
    found, _ = configurations(collect(tmp_path).runs)
    assert [one.columns for one in found] == [{"schedule.stages.0.lr": "0.1"}, {"schedule.stages.0.lr": "0.2"}]


def test_estimates_and_paired_tests_are_scipys() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(0.9, 0.02, 6), rng.normal(0.88, 0.02, 6)
    low, high = stats.t.interval(0.95, 5, loc=one.mean(), scale=stats.sem(one))
    assert estimate(one.tolist()).interval == pytest.approx((low, high))
    assert paired_p((one - other).tolist()) == pytest.approx(stats.ttest_rel(one, other).pvalue)
    assert estimate([0.5]).interval is None
    assert paired_p([0.1]) == 1.0
    assert paired_p([0.1, 0.1, 0.1]) == 0.25  # no spread to judge by: three equal signs
    p = [0.01, 0.04, 0.03, 0.2]
    assert holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.2])


def simulated(rng: np.random.Generator, shift: float, seeds: int = 5) -> list[dict[int, float]]:
    """Six configurations that share the ups and downs of each seed; the last is `shift` better."""
    common = rng.normal(0, 0.02, seeds)
    levels = [0.9] * 5 + [0.9 + shift]
    return [dict(enumerate((level + common + rng.normal(0, 0.01, seeds)).tolist())) for level in levels]


@pytest.mark.slow
def test_of_200_sweeps_in_which_nothing_differs_about_five_percent_find_something() -> None:
    rng = np.random.default_rng(2)
    found = apart = 0
    for _ in range(200):
        scores = simulated(rng, 0.0)
        verdicts = [one.verdict for one in compare([(one, scores[0]) for one in scores[1:]], higher_is_better=True)]
        found += any(verdict != "cannot tell" for verdict in verdicts)
        best, *others = sorted(scores, key=lambda values: -sum(values.values()))
        apart += any(told_apart(best, others))
    assert found <= 18  # 10 expected; more than 18 come once in 200 times
    assert apart <= 18


def test_a_difference_that_is_there_is_found_and_has_its_sign() -> None:
    rng = np.random.default_rng(3)
    for higher_is_better, word in ((True, "better"), (False, "worse")):
        verdicts = []
        for _ in range(100):
            scores = simulated(rng, 0.06)
            compared = compare([(one, scores[0]) for one in scores[1:]], higher_is_better=higher_is_better)
            verdicts.append(compared[-1].verdict)
            low, high = compared[-1].difference.interval or (0, 0)
            assert low < high
        assert verdicts.count(word) >= 90
        assert verdicts.count(word) + verdicts.count("cannot tell") == 100


def test_a_sweep_is_decided_against_its_baseline(sweep: Path) -> None:
    summary = summarize(collect(sweep))
    assert [one.name for one in summary.ranked] == ["schedule=staged", "schedule=full", "schedule=head_only"]
    assert summary.baseline == {"schedule": "full"}
    words = [verdict(summary, one) for one in summary.ranked]
    assert words[0].startswith("better: +0.")
    assert words[1] == "the baseline"
    assert words[2].startswith("worse: -0.")
    other = summarize(collect(sweep), {"schedule": "staged"})
    assert verdict(other, other.ranked[1]).startswith("worse: -0.")


def test_what_cannot_be_told_is_said(tmp_path: Path) -> None:
    for schedule, scores in (("full", (0.80, 0.86, 0.83)), ("staged", (0.84, 0.85, 0.86)), ("gradual", (0.9,))):
        for seed, score in enumerate(scores):
            leave(tmp_path / schedule / str(seed), score, f"schedule={schedule}", seed=seed)
    summary = summarize(collect(tmp_path))
    words = {one.columns["schedule"]: verdict(summary, one) for one in summary.ranked}
    assert words["staged"].startswith("cannot tell with 3 seeds: +0.0200 (")
    assert words["gradual"] == "cannot tell with 1 seed"
    assert headline(summary)[1] == "With 1 seed it cannot be told apart from schedule=staged, schedule=full."


@pytest.mark.slow
def test_each_configuration_is_compared_with_its_own_counterpart(tmp_path: Path) -> None:
    for precision, level in (("fp32", 0.8), ("bf16", 0.7)):
        for schedule, gain in (("full", 0.0), ("staged", 0.05)):
            for seed in range(3):
                score = level + gain + 0.01 * seed + 0.001 * (seed == 1) * (schedule == "staged")
                leave(
                    tmp_path / f"{precision}{schedule}{seed}",
                    score,
                    f"schedule={schedule}",
                    f"precision={precision}",
                    seed=seed,
                )
    summary = summarize(collect(tmp_path))
    found = {
        one.name: summary.comparisons[one.name].difference.mean
        for one in summary.ranked
        if one.name in summary.comparisons
    }
    assert found == pytest.approx({f"schedule=staged precision={p}": 0.05033 for p in ("fp32", "bf16")}, abs=1e-4)


def test_what_runs_do_not_share_is_held_against_the_comparison(tmp_path: Path) -> None:
    leave(tmp_path / "a", 0.9, "schedule=full")
    leave(tmp_path / "b", 0.9, "schedule=full", seed=1)
    leave(tmp_path / "c", 0.8, "schedule=staged", weights={"requested": "auto", "used": "random"})
    leave(tmp_path / "d", 0.8, "schedule=staged", seed=1, environment={"versions": {"torch": "9.9"}})
    warnings = summarize(collect(tmp_path)).warnings
    assert warnings == ["runs differ in their weights: most have glyphs, 1 with random"]
    for name in "abc":
        content = json.loads((tmp_path / name / "result.json").read_text())
        content["environment"] = {"versions": {"torch": "2.15.0"}}
        (tmp_path / name / "result.json").write_text(json.dumps(content))
    assert summarize(collect(tmp_path)).warnings[1] == (
        "runs differ in their library versions: most have torch 2.15.0, 1 with torch 9.9"
    )


def test_torn_and_foreign_results_and_jobs_without_one_are_listed(sweep: Path) -> None:
    for name, text in (("torn", '{"status": "comp'), ("foreign", '{"hello": 1}'), ("list", "[]")):
        (sweep / name).mkdir()
        (sweep / name / "result.json").write_text(text)
    (sweep / "schedule-full" / "seed-0" / "config.yaml").write_text("a: [")
    found = collect(sweep)
    assert len(found.runs) == 8
    assert [line.split(" ")[0].removeprefix(f"{sweep}/") for line in found.unreadable] == [
        "foreign/result.json", "list/result.json", "schedule-full/seed-0/config.yaml", "torn/result.json",
    ]  # fmt: skip
    assert found.missing == ["schedule-staged/seed-3"]


def test_a_baseline_that_is_not_there_is_said(sweep: Path) -> None:
    for baseline, message in {
        ("schedule", "ful"): "--baseline schedule=ful: no configuration has it; did you mean full?",
        ("seed", "0"): "--baseline seed=0: configurations do not differ in seed; they differ in: schedule",
    }.items():
        with pytest.raises(ResultError) as caught:
            summarize(collect(sweep), dict([baseline]))
        assert str(caught.value) == message


def test_a_folder_without_results_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResultError, match=r"no result\.json below .*; run an experiment first, such as make sweep"):
        collect(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResultError, match=r"there is no sweep in outputs/sweeps; run one first, such as make sweep"):
        newest_sweep()


def test_the_winner_is_printed_as_an_experiment_that_composes_to_it(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    show_best(sweep)
    text = capsys.readouterr().out
    (checkpoint,) = sweep.glob("schedule-staged/seed-2")
    assert text.splitlines()[-1] == f"# {checkpoint / 'best.ckpt'}"
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "best.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    composed, expected = (
        asdict(compose(["+experiment=best"])),
        asdict(compose(["+experiment=siamese_staged", "schedule=staged"])),
    )
    names = {"name": "best", "sweep": {"name": "best", "stop_on_failure": False, "trial": None}}
    assert composed == {**expected, **names}


def test_a_setting_inside_a_list_is_written_with_the_whole_list(tmp_path: Path) -> None:
    leave(tmp_path / "run", 0.9, "schedule=full", "schedule.stages.0.lr=0.02", "task.embedding=32")
    words = [
        "+experiment=siamese_staged",
        "schedule=full",
        "schedule.stages.0.lr=0.02",
        "task.embedding=32",
        "seed=0",
    ]
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": {"run": words}}))
    values = yaml.safe_load(experiment_yaml(summarize(collect(tmp_path))))
    assert values["defaults"] == ["siamese_staged", {"override /schedule": "full"}]
    assert values["task"] == {"embedding": 32}
    assert [(stage["name"], stage["lr"]) for stage in values["schedule"]["stages"]] == [("all", 0.02)]


def test_the_best_of_a_sweep_over_schedule_files_and_averages_says_them_as_settings(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    phases = [{"params": ["head.*"], "lr": 0.1, "max_transition_epoch": 1}, {"params": ["backbone.*"], "lr": 0.01}]
    file.write_text(yaml.safe_dump(dict(enumerate(phases))))
    own = [f"schedule.file={file}", "ema=0.9", "on_nan=skip_step"]
    words = ["+experiment=siamese_staged", *own, "name=mine", "seed=0"]
    leave(tmp_path / "run", 0.9, *own)
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": {"run": words}}))
    values = yaml.safe_load(experiment_yaml(summarize(collect(tmp_path))))
    assert values["defaults"] == ["siamese_staged"]
    assert (values["ema"], values["on_nan"], values["name"]) == (0.9, "skip_step", "best")
    opened = [stage["open"] for stage in values["schedule"]["stages"]]
    assert opened == [[{"params": ["head.*"]}], [{"params": ["backbone.*"]}]]
    assert "file" not in values["schedule"]  # the file may change or be gone


def test_the_tables_hold_what_the_page_shows(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_report(sweep, [])
    out = capsys.readouterr().out
    assert "better: +0." in out
    assert "Jobs that left no result: schedule-staged/seed-3" in out
    header, best, *_ = (line.split(",") for line in (sweep / "summary.csv").read_text().splitlines())
    row = dict(zip(header, best, strict=True))
    assert (row["schedule"], row["seeds"], row["verdict"]) == ("staged", "3", "better")
    assert float(row["val/auc"]) == pytest.approx(0.91, abs=0.003)
    assert "| staged | 3 | 0.91" in (sweep / "summary.md").read_text()


def test_what_the_untouched_features_have_stands_beside_the_best(tmp_path: Path) -> None:
    for seed, (val, test) in enumerate([(0.71, 0.69), (0.73, 0.67)]):
        leave(tmp_path / str(seed), 0.9, seed=seed, probe={"val/auc": val, "test/auc": test, "features": 512})
    leave(tmp_path / "other", 0.8, "schedule=full")
    summary = summarize(collect(tmp_path))
    assert headline(summary)[1] == "The probe of the untouched features has 0.7200 there."
    text = page(summary)
    assert text.count("<th>probe</th>") == 2
    assert all(text.count(f"<td>{value}</td>") == 1 for value in ("0.6900", "0.6700"))


def test_a_parquet_table_is_written_where_pyarrow_is(sweep: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    show_report(sweep, [])
    assert parquet.read_table(sweep / "summary.parquet").column("schedule").to_pylist() == [
        "staged",
        "full",
        "head_only",
    ]


def test_strings_of_runs_are_escaped_and_nothing_is_fetched(sweep: Path) -> None:
    text = page(summarize(collect(sweep)))
    assert "<script>no" not in text
    assert "&lt;script&gt;no&lt;/script&gt;" in text
    assert "src=" not in text
    assert "@import" not in text
    assert "python train.py +experiment=siamese_staged schedule=staged seed=1" in text
    for title in ("Score against cost", "Memory against speed", "What each factor does", "Learning curves",
                  "What each stage adds", "Schedules"):  # fmt: skip
        assert f'<svg role="img" aria-label="{title}"' in text


@pytest.mark.slow
def test_a_thousand_runs_are_read_without_torch_in_a_gibibyte(sweep: Path) -> None:
    template = sweep / "schedule-staged" / "seed-0"
    for i in range(1000):
        copy = sweep / "many" / f"{i}"
        copy.mkdir(parents=True)
        for name in ("result.json", "config.yaml", "metrics.csv"):
            (copy / name).write_text((template / name).read_text().replace("seed: 0", f"seed: {i}"))
    code = (  # ru_maxrss would be the parent's
        "import sys; from pathlib import Path; from stagetune.report.commands import show_report; "
        f"show_report(Path({str(sweep)!r}), []); assert 'torch' not in sys.modules; "
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 2**20


@pytest.fixture
def browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "window-size=1200,1600",
    ):  # fmt: skip
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM or not shutil.which("chromedriver"), reason="needs chromium and chromedriver")
def test_the_page_sorts_filters_opens_and_shows_strings_of_runs_as_text(sweep: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    evil = "<script>document.title = 'taken'</script>"
    target = sweep / "<script>alert(1)<" / "seed-0"
    leave(target, 0.6, "schedule=gradual")
    content = yaml.safe_load((target / "config.yaml").read_text())
    content["schedule"]["name"] = evil
    (target / "config.yaml").write_text(yaml.safe_dump(content))
    show_report(sweep, [])
    browser.get((sweep / "report.html").as_uri())

    def column(number: int) -> list[str]:
        bodies = browser.find_elements(By.CSS_SELECTOR, "#configurations > tbody")
        return [
            body.find_elements(By.CSS_SELECTOR, "tr:first-child > td")[number].text
            for body in bodies
            if body.is_displayed()
        ]

    assert column(1) == ["staged", "full", "head_only", evil]
    assert browser.title == f"{sweep.name}: 4 configurations, 10 runs"
    headings = browser.find_elements(By.CSS_SELECTOR, "#configurations > thead button")
    scores = [heading.text for heading in headings].index("val/auc")
    headings[scores].send_keys(Keys.ENTER)  # by keyboard
    assert column(1) == [evil, "head_only", "full", "staged"]
    headings[scores].click()
    assert column(1)[0] == "staged"
    assert headings[scores].find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    find = browser.find_element(By.ID, "find")
    find.send_keys("worse head")
    assert column(1) == ["head_only"]
    assert browser.find_element(By.ID, "count").text == "1 of 4"
    find.clear()
    find.send_keys(" ")
    button = browser.find_element(By.CSS_SELECTOR, "button.open")
    button.send_keys(Keys.SPACE)
    runs = browser.find_elements(By.CSS_SELECTOR, "tr.runs")[0]
    assert runs.is_displayed()
    assert "python train.py +experiment=siamese_staged schedule=staged seed=0" in runs.text
    assert runs.find_elements(By.CSS_SELECTOR, "svg.course polyline")
    pictures = browser.find_elements(By.CSS_SELECTOR, "figure > svg")
    assert len(pictures) == 6
    assert all(picture.size["height"] > 100 for picture in pictures)
    assert browser.get_log("browser") == []
