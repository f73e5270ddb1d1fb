"""A ./conf of one's own beside ours: it adds options and experiments, and never takes the place of one."""

import shutil
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from stagetune import compose
from stagetune.config.compose import has_unread_train
from stagetune.errors import ConfigError
from stagetune.seams import version_base
from stagetune.shipped import CONF
from stagetune.sweep.combinations import jobs_of

SHORT = "name: short\nleave_frozen: true\nstages: [{name: head, open: [head], epochs: 1, lr: 1.0e-3}]\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./conf with a schedule and an experiment that chooses it."""
    monkeypatch.chdir(tmp_path)
    for group in ("schedule", "experiment"):
        (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf" / "schedule" / "short.yaml").write_text(SHORT)
    (tmp_path / "conf" / "experiment" / "theirs.yaml").write_text(
        "# @package _global_\ndefaults: [{override /schedule: short}, {override /task: siamese},"
        "{override /loss: triplet}]\nname: theirs\n"
    )
    return tmp_path / "conf"


@pytest.mark.usefixtures("own")
def test_it_adds_options_and_experiments() -> None:
    config = compose(["+experiment=theirs", "loss=contrastive"])
    assert (config.name, config.schedule.name, config.task.name, config.loss.name) == (
        "theirs", "short", "siamese", "contrastive",
    )  # fmt: skip
    assert compose(["schedule=full"]).schedule.name == "full"


@pytest.mark.usefixtures("own")
def test_a_typo_finds_options_of_both() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["schedule=shrt", "+experiment=thiers"])
    assert caught.value.problems == [
        "schedule=shrt: no such schedule; did you mean short?",
        "experiment=thiers: no such experiment; did you mean theirs?",
    ]


def test_an_option_of_one_of_our_names_is_refused_where_it_is_chosen(own: Path) -> None:
    (own / "schedule" / "staged.yaml").write_text(SHORT)
    refusal = "schedule=staged: conf/schedule/staged.yaml has the name of an option that ships with stagetune, and "
    for overrides in ([], ["+experiment=siamese_staged"], ["schedule=staged.yaml"]):
        with pytest.raises(ConfigError, match=refusal + "says something else; rename yours"):
            compose(overrides)
    assert compose(["schedule=full"]).schedule.name == "full"


def test_an_experiment_of_one_of_our_names_is_refused_in_a_list_too(own: Path) -> None:
    (own / "experiment" / "classifier_staged.yaml").write_text("# @package _global_\nseed: 9\n")
    for chosen in ("classifier_staged", "[classifier_staged]", "[theirs,classifier_staged]"):
        with pytest.raises(ConfigError, match=r"experiment=classifier_staged: conf/experiment/classifier_sta"):
            compose([f"+experiment={chosen}"])


@pytest.mark.slow
def test_a_file_that_is_no_yaml_or_lacks_its_first_line_is_said(own: Path) -> None:
    (own / "schedule" / "torn.yaml").write_text("stages: [1, 2\nb: }")
    with pytest.raises(ConfigError, match=r"schedule=torn: .*torn\.yaml.* line 2, column"):
        compose(["schedule=torn"])
    (own / "experiment" / "headless.yaml").write_text("name: headless\n")
    with pytest.raises(ConfigError, match="conf/experiment: a file there lacks its first line, # @package _global_"):
        compose(["+experiment=headless"])


def test_a_copy_of_our_settings_is_ours(own: Path) -> None:
    """Such as those of another checkout."""
    shutil.copytree(CONF, own, dirs_exist_ok=True)
    assert compose(["+experiment=siamese_staged"]).schedule.name == "staged"


@pytest.mark.parametrize("name", ["train", "schema"])
def test_the_primary_configuration_is_always_ours(name: str, own: Path) -> None:
    (own / f"{name}.yaml").write_text("seed: 77\ndefaults: [nothing]\n")
    assert compose([]).seed == 0
    assert has_unread_train() == (name == "train")


def test_a_file_called_conf_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").write_text("[section]")
    monkeypatch.chdir(tmp_path)
    assert compose(["schedule=full"]).schedule.name == "full"


def test_another_application_does_not_get_it(own: Path, tmp_path: Path) -> None:
    """Hydra asks every plugin that is installed, whoever runs."""
    theirs = tmp_path / "application"
    (theirs / "schedule").mkdir(parents=True)
    (theirs / "main.yaml").write_text("defaults: [_self_]\n")
    (own / "schedule" / "only_here.yaml").write_text("a: 1\n")
    (theirs / "train.yaml").write_text("seed: 77\n")
    with initialize_config_dir(str(theirs), **version_base()):
        with pytest.raises(Exception, match="only_here"):
            hydra_compose("main", ["+schedule=only_here"])
        assert compose(["schedule=short"]).seed == 0  # ours, within theirs
        assert hydra_compose("train").seed == 77


def test_its_options_can_be_swept(own: Path) -> None:
    from dataclasses import asdict

    words = [["schedule=short", "seed=0"], ["schedule=full", "seed=0"]]
    jobs = jobs_of(words, lambda job: asdict(compose(job)), own.parent / "sweep")
    assert [job.config.schedule.name for job in jobs] == ["short", "full"]
