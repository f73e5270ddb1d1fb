"""`make report`: every result below a folder, best first."""

from pathlib import Path

import pytest

from stagetune.errors import ResultError
from stagetune.report.__main__ import main
from stagetune.report.result import RunResult, write_result


def leave(folder: Path, metric: str, mode: str, value: float) -> None:
    folder.mkdir(parents=True)
    best = {"epoch": 0, "stage": "all", "metric": metric, "mode": mode, "value": value, "checkpoint": "best.ckpt"}
    write_result(RunResult("completed", "mine", "siamese", 0, "x", "staged", "fp32", 8, 1, 8, best=best), folder)


def test_runs_are_listed_best_first_with_their_whole_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a_very_long_name_of_a_folder_" * 8
    for name, metric, mode, value in (
        ("low", "val/auc", "max", 0.5), (long, "val/auc", "max", 0.9),
        ("bad", "val/eer", "min", 0.4), ("good", "val/eer", "min", 0.1),
    ):  # fmt: skip
        leave(tmp_path / name, metric, mode, value)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "result.json").write_text("{")
    main(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split()[-1]).name for line in lines[1:5]] == [long, "low", "good", "bad"]
    assert "val/auc 0.9000" in lines[1]
    assert "torn/result.json is not readable JSON" in lines[5]


def test_a_folder_without_results_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"no result\.json below .*; run an experiment first, such as make train"):
        main(tmp_path)
